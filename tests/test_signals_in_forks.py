"""Signals, and processes that a task forks: neither takes anything from the other."""

from __future__ import annotations

import signal
import time

import pytest
from harness import Scripts, start_own
from scripted_server import Server

DIES = """
def perform(task):
    reads, writes = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writes, b"%d" % signal.set_wakeup_fd(-1))  # a signal that comes before, Python itself forgets
        time.sleep(20)
        os._exit(0)
    wakeup = os.read(reads, 9)
    os.kill(pid, {number})
    print("died of", os.WTERMSIG(os.waitpid(pid, 0)[1]), "with", int(wakeup))

{call}
"""
CALLS = {
    "a worker": "listen(perform, max_tasks=2)",
    "a worker within a worker": "listen(lambda _: listen(perform, max_tasks=1), max_tasks=1)",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_process_that_a_task_forks_dies_of_a_signal_and_the_worker_goes_on(
    at_server: Scripts, server: Server, number: signal.Signals, call: str
) -> None:
    server.put(b"one", b"two")
    run = start_own(at_server, DIES.format(number=number.value, call=call)).ends()
    assert run.lines.count(f"died of {number.value} with -1") == (1 if "lambda" in call else 2)
    assert len(server.got("Basic.Ack")) == 2
    assert run.err == ""


FORKS_ALL_THE_TIME = """
def perform(task):
    print("forks", flush=True)
    while True:
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)

run(lambda: listen(perform))
"""


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGHUP], [signal.SIGTERM] * 2], ids=str)
def test_a_signal_counts_while_a_task_forks(at_server: Scripts, server: Server, numbers: list[signal.Signals]) -> None:
    """Nothing can be raised in the functions that Python calls around a fork; that is not to cost the signal."""
    server.put(b"task")
    worker = start_own(at_server, FORKS_ALL_THE_TIME)
    worker.shows("forks")
    for number in numbers:
        worker.send(number)
        time.sleep(0.3)  # the second SIGTERM forces; within 0.2 s it would be taken for the first
    worker.ends(130, within=5)
    assert "Not finished, so it goes back to the queue: task" in worker.out
    assert worker.err == ""


FAILS_IN_A_CHILD = """
ends = {"error": lambda: 1 / 0, "status": lambda: sys.exit(3), "text": lambda: sys.exit("why"), "end": int}

def perform(task):
    if (pid := os.fork()) == 0:
        print("in the child", end=" ")
        return ends[task.text]()
    print(task.text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

listen(perform, burst=True)
"""


def test_a_forked_process_that_fails_says_so_and_settles_nothing(at_server: Scripts, server: Server) -> None:
    server.put(b"error", b"status", b"text", b"end")
    run = start_own(at_server, FAILS_IN_A_CHILD)
    assert run.process.wait(20) == 0
    ends = [line for line in run.lines if "in the child" in line]
    assert ends == [f"in the child {end}" for end in ("error 1", "status 3", "text 1", "end 0")]
    assert run.err.count("Traceback") == 1
    assert "ZeroDivisionError" in run.err
    assert run.err.endswith("why\n")
    assert len(server.got("Basic.Ack")) == 4
    assert server.got("Basic.Reject") == server.got("Basic.Nack") == []
    assert len(server.sessions) == 1
