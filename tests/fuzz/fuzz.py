#!/usr/bin/python3
"""Builds the fuzzers of this folder with clang, ASan and UBSan in build/fuzz, and runs them.

usage: tests/fuzz/fuzz.py [--seconds N] [--target NAME]...

A fuzzer is a source fuzz_NAME.c with LLVMFuzzerTestOneInput; it links drover's libraries up to wire
and node, and that of requests all of droverd but its main(). Its seeds are in corpus/NAME; what it finds besides goes to build/fuzz/corpus/NAME, and is
used by the next run. An input that makes it crash, run out of memory (2 GiB) or take more than 10 s is kept in
build/fuzz/found; when its cause is removed, it becomes a seed."""

import argparse
import fcntl
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("DROVER_BUILD", ROOT / "build")).resolve() / "fuzz"
FOUND = BUILD / "found"
AT_ONCE = 2
INPUT_LIMIT_S = 10
MEMORY_LIMIT_MIB = 2048
# A fuzzer ends by itself when its time is over, and an input that hangs ends after its limit.
GRACE_S = 60


class FuzzError(Exception):
    """What a fuzzer has found, or why it could not be run."""


def names():
    """Every fuzzer there is."""
    return sorted(path.stem[5:] for path in HERE.glob("fuzz_*.c"))


def _run(*command):
    run = subprocess.run([str(part) for part in command], text=True, errors="replace", check=False,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env={**os.environ, "CC": "clang"})
    if run.returncode != 0:
        raise FuzzError(f"{' '.join(map(str, command))} failed:\n{run.stdout[-4000:]}")


def build(wanted, *others):
    """Makes the programs, and others of the project with the same sanitizers; one caller at a time."""
    BUILD.parent.mkdir(parents=True, exist_ok=True)
    with open(BUILD.with_suffix(".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A build directory knows only the sources that were there when it was made.
        again = ["--reconfigure"] if (BUILD / "build.ninja").exists() else []
        _run("meson", "setup", *again, BUILD, ROOT, "-Dfuzz=true", "-Db_lundef=false",
             "-Db_sanitize=address,undefined")
        _run("ninja", "-C", BUILD, *(f"tests/fuzz/fuzz_{name}" for name in wanted), *others)


def run(name, seconds):
    """One fuzzer for so long; its last words, with how many inputs it tried."""
    own = BUILD / "corpus" / name
    own.mkdir(parents=True, exist_ok=True)
    FOUND.mkdir(exist_ok=True)
    seeds, words = HERE / "corpus" / name, HERE / f"fuzz_{name}.dict"
    command = [BUILD / "tests/fuzz" / f"fuzz_{name}", f"-max_total_time={seconds}",
               f"-timeout={INPUT_LIMIT_S}", f"-rss_limit_mb={MEMORY_LIMIT_MIB}",
               f"-artifact_prefix={FOUND}/{name}-", *([f"-dict={words}"] if words.exists() else []),
               own, *([seeds] if seeds.exists() else [])]
    log = BUILD / f"{name}.log"
    with open(log, "wb") as out:
        try:
            status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                    check=False, timeout=seconds + GRACE_S).returncode
        except subprocess.TimeoutExpired:
            raise FuzzError(f"fuzz_{name} does not end; see {log}") from None
    said = log.read_text(errors="replace")
    if status != 0:
        kept = re.search(r"Test unit written to (\S+)", said)
        why = re.search(r"^(SUMMARY: .*|.*runtime error.*|.*: fuzz target .*)$", said, re.MULTILINE)
        raise FuzzError(f"fuzz_{name} ended with {status}: "
                        f"{why.group(0) if why else said[-2000:]}\n"
                        f"the input is {kept.group(1) if kept else 'lost'}; all of it: {log}")
    done = re.findall(r"^Done (\d+) runs in (\d+) second", said, re.MULTILINE)
    coverage = re.findall(r"cov: (\d+)", said)
    if not done or not coverage:
        raise FuzzError(f"fuzz_{name} did not run; see {log}")
    return f"{name}: {done[-1][0]} inputs in {done[-1][1]} s, {coverage[-1]} edges covered"


def start(wanted, seconds, others=None):
    """Starts them all, a few at once: {name: Future of run()}. `others`: {name: seconds}."""
    pool = ThreadPoolExecutor(AT_ONCE)
    others = others or {}
    futures = {name: pool.submit(run, name, others.get(name, seconds)) for name in wanted}
    pool.shutdown(wait=False)
    return futures


def main():
    parser = argparse.ArgumentParser(usage=__doc__.strip())
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--target", action="append", choices=names())
    options = parser.parse_args()
    wanted = options.target or names()
    build(wanted)
    bad = 0
    for future in start(wanted, options.seconds).values():
        try:
            print(future.result(), flush=True)
        except FuzzError as error:
            bad += 1
            print(f"tests/fuzz/fuzz.py: {error}", file=sys.stderr, flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FuzzError as error:
        sys.exit(f"tests/fuzz/fuzz.py: {error}")
