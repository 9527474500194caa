"""The work of each peer's task: none, or a sleep and a mark in a file, so that it is seen from outside when it is done.

BENCH_MARKS=FILE and BENCH_SECONDS=S in the environment make it the second. BENCH_FAILS=1 lets one task in ten fail
once, in work_ours.py.
"""

import os
import time

FILE = os.environ.get("BENCH_MARKS")
SECONDS = float(os.environ.get("BENCH_SECONDS", "0"))
FAILS = os.environ.get("BENCH_FAILS") == "1"


def mark():
    """Note that a task is done; each mark is a write of its own, so those of several processes do not mix."""
    file = os.open(FILE, os.O_WRONLY | os.O_APPEND)
    os.write(file, b".")
    os.close(file)


def work(*_):
    """Do a task."""
    if FILE:
        time.sleep(SECONDS)
        mark()
