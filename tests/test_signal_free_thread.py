"""The threads of our own get no signals: the main thread alone does."""

import re
import signal

from harness import Scripts
from scripted_server import Server

ENDING = sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
# Looks when a thread feeds it, and the main one, which blocks all while it starts another, has them back.
LOOK = "for _ in $(seq 300); do grep -q SigBlk:.0000000000000000 /proc/$PPID/status && break; sleep 0.1; done"


def test_signals_come_to_the_main_thread_alone(at_server: Scripts, server: Server) -> None:
    """Linux may give one to any thread, and then what the main one waits for, such as a line of a pipe, goes on."""
    server.put(b"x" * 200_000)  # more than a pipe takes
    look = f"sh -c 'head -c 1 > /dev/null; {LOOK}; grep -h SigBlk /proc/$PPID/task/*/status'"
    worker = at_server.start("listening_worker.py", "--max-tasks", 1, "--run", look).ends()
    blocked = [int(mask, 16) & ENDING for mask in re.findall(r"SigBlk:\t(\w+)", worker.out)]
    assert len(blocked) >= 3  # the main thread, the keeper, and who feeds the command
    assert sorted(blocked) == [0, *[ENDING] * (len(blocked) - 1)]
