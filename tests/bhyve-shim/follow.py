"""follow.py BHYVE QEMU: stops the QEMU while the process above it is stopped."""

import os
import signal
import sys
import time
from pathlib import Path

LOOK_S = 0.005


def main():
    parent, qemu = int(sys.argv[1]), int(sys.argv[2])
    stopped = False
    while os.getppid() == parent:
        try:
            now = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[0] == "T"
            if now != stopped:
                os.kill(qemu, signal.SIGSTOP if now else signal.SIGCONT)
                stopped = now
        except OSError:
            break
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main()
