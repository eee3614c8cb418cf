#!/usr/bin/python3
"""How often the estimates of moves hold: real moves of a guest, each with what was estimated.

usage: bench/estimate.py [--guest tiny|debian] [--memory MIB] [--rate MBIT,...] [--work WORK,...]
                         [--runs N]

Works: idle      the guest does nothing
       text      96 MiB of text-like pages, which it leaves alone
       random    96 MiB that cannot be compressed, which it leaves alone
       sparse    96 MiB of text-like pages, 20 MB/s of them changed in a few words each
       heavy     64 MiB that cannot be compressed, 5 MB/s of them rewritten whole
Rates: of the link in Mbit/s, 0 for no limit.

Each work is done by one guest, which is moved back and forth over the link at each rate. Prints for
each move the time, the bytes and the downtime, and the ranges that were estimated for them, by
`drover migrate` itself and before it by `--check`; at the end how many were inside. All of it is
written to build/bench/estimate.json. A move that does not end within 60 s is a result, too."""

import argparse
import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from droverlab import guest_client, guests  # noqa: E402
from droverlab.lab import Lab  # noqa: E402
from droverlab.paths import BUILD, LabError  # noqa: E402
from droverlab.vm import VM  # noqa: E402

LIMIT_S = 60
WORKS = {
    "idle": [],
    "text": [("fill", 96, "text")],
    "random": [("fill", 96, "random")],
    "sparse": [("fill", 96, "text"), ("dirty", 20, "words")],
    "heavy": [("fill", 64, "random"), ("dirty", 5, "page")],
}
KEYS = ("total_ms", "wire_bytes", "downtime_ms")
SCALES = {"total_ms": 1, "wire_bytes": 1e6, "downtime_ms": 1}
WHERE = ("migrate", "check")
IMAGE = "images/debian.qcow2"
BOOT_TIMEOUT_S = 180


def shape(lab, rate_mbit):
    for node in lab.nodes:
        node.run("tc", "qdisc", "del", "dev", "mig0", "root", check=False)
        if rate_mbit:
            node.run("tc", "qdisc", "add", "dev", "mig0", "root", "tbf", "rate",
                     f"{rate_mbit}mbit", "burst", "256k", "latency", "50ms")


def last_json(run):
    return json.loads(run.stdout.strip().splitlines()[-1])


def check(node, vm, to):
    """What --check estimates."""
    return json.loads(node.run("drover", "migrate", vm.name, to.name, "--check", "--json",
                               check=False, timeout=60).stdout).get("estimate")


def move(node, vm, to):
    """The report of a move, or of one that was ended for it took too long."""
    run = node.run("drover", "migrate", vm.name, to.name, "--estimate", "--timeout", str(LIMIT_S), "--json",
                   check=False, timeout=LIMIT_S + 60)
    said = last_json(run)
    return {"moved": run.returncode == 0, **said.get("result", said)}


def inside(range_, actual):
    """None where nothing was estimated."""
    if not range_:
        return None
    low, high = range_
    return low <= actual and (high is None or actual <= high)


def range_text(range_, actual, scale):
    """"[1.2..3.4]", "[1.2..]" without an end, "[-]" for nothing; with OUT when it did not hold."""
    if not range_:
        return "[-]"
    ends = ("" if end is None else f"{end / scale:.4g}" for end in range_)
    return f"[{'..'.join(ends)}]" + ("" if inside(range_, actual) else " OUT")


def show(result):
    words = [f"{result['work']:7} {result['rate_mbit']:5} Mbit/s run {result['run']}:",
             "moved" if result["moved"] else "NOT MOVED"]
    for key in KEYS:
        scale, actual = SCALES[key], result["actual"][key]
        words += [key, f"{actual / scale:.4g}"]
        words += [range_text((result[where] or {}).get(key), actual, scale) for where in WHERE]
    words.append(f"converges {[(result[where] or {}).get('converges') for where in WHERE]}")
    print(" ".join(words), flush=True)


def one(lab, vm, at, to, facts):
    """One move; where the guest is after it."""
    before = check(at, vm, to)
    said = move(at, vm, to)
    report = said.get("report") or {}
    result = {**facts, "check": before, "migrate": report.get("estimate"),
              "moved": said["moved"], "actual": {key: report.get(key, 0) for key in KEYS},
              "rounds": report.get("rounds"), "stream_ms": report.get("stream_ms"),
              "levels": report.get("levels"), "pages": report.get("pages")}
    show(result)
    if said["moved"]:
        guest_client.wait_ready(lab.guests, vm.address, 30)
        return to, at, result
    return at, to, result


class Bench:
    def __init__(self, args):
        self.args = args
        self.lab = Lab(BUILD / "bench" / "estimate-lab")

    def start(self, work):
        self.lab.down()
        self.lab.up(nodes=2)
        at, to = self.lab.nodes
        vm = VM(self.lab, "bench", 20)
        options = []
        if self.args.guest == "debian":
            self.lab.add_image(guests.guest("debian")[0])
            at.run("drover", "image", "index", "debian.qcow2", timeout=120)
            options = ["--disk", f"disk0.qcow2,backing={IMAGE},backing_format=qcow2"]
        vm.create(at, *options, memory=f"{self.args.memory}M", guest=self.args.guest)
        vm.start(at, BOOT_TIMEOUT_S)
        for command in WORKS[work]:
            vm.ask(*command)
        return vm, at, to

    def run(self):
        results = []
        for work in self.args.works:
            vm, at, to = self.start(work)
            for rate in self.args.rates:
                shape(self.lab, rate)
                for run in range(1, self.args.runs + 1):
                    at, to, result = one(self.lab, vm, at, to, {
                        "guest": self.args.guest, "work": work, "rate_mbit": rate, "run": run})
                    results.append(result)
            self.lab.down()
        return results


def count(results, where, key):
    held = [inside((r[where] or {}).get(key), r["actual"][key]) for r in results if r["moved"]]
    held = [h for h in held if h is not None]
    return f"{sum(held)} of {len(held)}"


def parse():
    parser = argparse.ArgumentParser(usage=__doc__.strip())
    parser.add_argument("--guest", default="tiny", choices=("tiny", "debian"))
    parser.add_argument("--memory", type=int, default=256)
    parser.add_argument("--rate", default="100,1000,0")
    parser.add_argument("--work", default=",".join(WORKS))
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    args.rates = [int(rate) for rate in args.rate.split(",")]
    args.works = args.work.split(",")
    if set(args.works) - set(WORKS):
        raise LabError(f"The works are {', '.join(WORKS)}.")
    return args


def main():
    bench = Bench(parse())
    try:
        results = bench.run()
    finally:
        bench.lab.down()
    out = BUILD / "bench" / "estimate.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    for where in WHERE:
        print(f"{where}: inside: " + ", ".join(
            f"{key} {count(results, where, key)}" for key in KEYS))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except LabError as error:
        sys.exit(f"bench/estimate.py: {error}")
    except KeyboardInterrupt:
        sys.exit("bench/estimate.py: interrupted")
