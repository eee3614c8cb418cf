#!/usr/bin/python3
"""Moves of a running guest: drover against QEMU's own migration, over the same link, in one run.

usage: bench/migrate.py [--case CASE,...] [--config CONFIG,...] [--runs N] [--rate MBIT]

Cases: idle, text, random. Configurations: default stands for qemu-default and drover-default.

The debian guest (1 vCPU, 1 GiB) goes from node1 to node2 of the lab and back, N times (5). Each
configuration has a lab, a disk and a boot of its own. Measured for each move:
  total_s   from starting the destination's QEMU, or the drover command, until the guest runs there
  stream_s  QEMU only: from its `migrate` command on, the destination being ready
  wire_mb   what left the source through the migration link, in 10^6 bytes, with all headers
  gap_ms    longest time without an answer that a client sees who sends a datagram a millisecond
After each configuration the guest checks its memory. Prints the medians; writes all figures to
build/bench/results.json.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from droverlab import bare, guest_client, guests  # noqa: E402
from droverlab.lab import SHARED, Lab  # noqa: E402
from droverlab.paths import BUILD, QEMU, LabError  # noqa: E402
from droverlab.vm import VM, Probe  # noqa: E402

MEMORY_MIB = 1024
SETTLE_S = 10
AFTER_MOVE_S = 1
BOOT_TIMEOUT_S = 180
NUMBER = 20  # the guest's address: 10.77.0.20
ADDRESS = f"10.77.0.{NUMBER}"

# What the guest does meanwhile: commands to its test program.
CASES = {
    "idle": [],
    "text": [("fill", 256, "text"), ("dirty", 50, "words")],
    "random": [("fill", 256, "random"), ("dirty", 150, "page")],
}


def chosen(text, known):
    """The names in a list with commas; "default" stands for all that end in -default."""
    names = []
    for wanted in text.split(","):
        found = [name for name in known if name == wanted or name.endswith(f"-{wanted}")]
        if not found:
            raise LabError(f"There is no {wanted}; there are: {', '.join(known)}.")
        names += found
    return names


class QemuDefault:
    """QEMU's own migration over TCP with libvirt's defaults (downtime limit 300 ms)."""

    bare = True

    def __init__(self, lab):
        lab.nodes[0].run(QEMU / "10.0/bin/qemu-img", "create", "-q", "-f", "qcow2", "-b",
                         f"{SHARED}/pool/images/debian.qcow2", "-F", "qcow2",
                         f"{SHARED}/pool/bench.qcow2")
        self.vm = bare.BareVM(lab.nodes[0], "bench", NUMBER, MEMORY_MIB,
                              arguments=self._arguments())

    @staticmethod
    def _arguments():
        return bare.debian(NUMBER, f"{SHARED}/pool/bench.qcow2")

    def move(self, source, destination):
        start = time.monotonic()
        there = bare.BareVM(destination, "bench", NUMBER, MEMORY_MIB, arguments=self._arguments(),
                            incoming=True)
        stream_s, _ = bare.migrate(self.vm, there)
        total_s = time.monotonic() - start
        self.vm.end()
        self.vm = there
        return {"total_s": total_s, "stream_s": stream_s}


class DroverDefault:
    """drover migrate, with no options."""

    bare = False

    def __init__(self, lab):
        self.vm = VM(lab, "bench", NUMBER)
        self.vm.create(lab.nodes[0], "--disk",
                       "disk0.qcow2,backing=images/debian.qcow2,backing_format=qcow2",
                       memory=f"{MEMORY_MIB}M", root="/dev/vda")
        lab.nodes[0].run("drover", "start", "bench")

    def move(self, source, destination):
        return {"total_s": self.vm.move(source, destination)["seconds"]}


CONFIGS = {"qemu-default": QemuDefault, "drover-default": DroverDefault}


def measure(lab, config, source, destination):
    """One move, with a client outside."""
    with Probe(lab, ADDRESS) as probe:
        before = source.wire_bytes()
        figures = config.move(source, destination)
        figures["wire_mb"] = (source.wire_bytes() - before) / 1e6
        time.sleep(AFTER_MOVE_S)
        seen = probe.end()
    if not seen["tcp_survived"]:
        raise LabError(f"the guest's TCP connection did not survive: {seen}")
    figures["gap_ms"] = seen["longest_gap_ms"]
    return {key: round(value, 3) for key, value in figures.items()}


def run_config(name, case, runs, rate_mbit):
    """The figures of all moves of one configuration in one case."""
    image, = guests.guest("debian")
    lab = Lab(BUILD / "bench" / "lab")
    lab.down()
    make = CONFIGS[name]
    lab.up(nodes=2, rate_mbit=rate_mbit, bare=make.bare)
    try:
        lab.add_image(image)
        config = make(lab)
        guest_client.wait_ready(lab.guests, ADDRESS, BOOT_TIMEOUT_S)
        time.sleep(SETTLE_S)
        for command in CASES[case]:
            guest_client.ask(lab.guests, ADDRESS, *command)
        nodes = lab.nodes
        moves = []
        for number in range(runs):
            moves.append(measure(lab, config, nodes[number % 2], nodes[(number + 1) % 2]))
            print(f"  {name} {case}: {moves[-1]}", flush=True)
        if CASES[case]:
            check = guest_client.ask(lab.guests, ADDRESS, "check", timeout=120)
            if not check["ok"]:
                raise LabError(f"the guest's memory is wrong after the moves: {check}")
        return moves
    finally:
        lab.down()


def medians(moves):
    return {key: statistics.median(move[key] for move in moves) for key in moves[0]}


def print_table(results):
    print(f"\n{'case':<8} {'configuration':<20} {'total s':>8} {'wire MB':>9} {'gap ms':>8}  of")
    for result in results:
        m = result["median"]
        print(f"{result['case']:<8} {result['config']:<20} {m['total_s']:>8.2f} "
              f"{m['wire_mb']:>9.1f} {m['gap_ms']:>8.1f}  {len(result['moves'])}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.strip(), add_help=True)
    parser.add_argument("--case", default="idle")
    parser.add_argument("--config", default="default")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rate", type=int, default=1000)
    args = parser.parse_args()
    cases, configs = chosen(args.case, CASES), chosen(args.config, CONFIGS)
    results = []
    for case in cases:
        for name in configs:
            moves = run_config(name, case, args.runs, args.rate)
            results.append({"case": case, "config": name, "median": medians(moves), "moves": moves})
    out = BUILD / "bench" / "results.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"rate_mbit": args.rate, "cpus": os.cpu_count(),
                               "kernel": platform.release(), "results": results}, indent=2) + "\n")
    print_table(results)
    print(f"\nall figures: {out}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except LabError as error:
        sys.exit(f"bench/migrate.py: {error}")
    except KeyboardInterrupt:
        sys.exit("bench/migrate.py: interrupted")
