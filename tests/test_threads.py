"""The threads of our own get no signals: the main thread alone does."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from harness import Scripts, eventually

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def blocked_in_threads(pid: int) -> dict[int, set[int]]:
    """Return for each thread of a process which of the signals that end it the system does not give to it (Linux)."""
    blocked = {}
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        mask = int(dict(line.split(":\t") for line in status.read_text().splitlines())["SigBlk"], 16)
        blocked[int(status.parent.name)] = {number for number in ENDING if mask & 1 << (number - 1)}
    return blocked


def test_signals_come_to_the_main_thread_alone(scripts: Scripts) -> None:
    """Linux may give one to any thread, and then what the main one waits for, such as a line of a pipe, goes on."""
    emitter = scripts.emitter(stdin=subprocess.PIPE)
    assert emitter.process.stdin
    with emitter.process.stdin as pipe:
        pipe.write(b"x" * 200_000 + b"\n")  # more than a pipe takes
        pipe.flush()
        worker = scripts.worker("--run", "sh -c 'echo It runs.; exec sleep 60'")
        worker.shows("It runs.")
        for run, threads in ((emitter, 1), (worker, 2)):  # the keeper, and who feeds the command
            main = run.process.pid
            # For a moment, while it starts another thread, it gets none either.
            eventually(lambda: not blocked_in_threads(main)[main], "the main thread gets them")  # noqa: B023
            blocked = blocked_in_threads(main)
            del blocked[main]
            assert len(blocked) >= threads
            assert all(signals == set(ENDING) for signals in blocked.values())
            run.send(signal.SIGINT)
        emitter.ends(130)
        worker.ends()
