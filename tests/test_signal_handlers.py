"""Signals in a program of one's own: the worker's for the time of a call, and the program's again afterwards."""

import contextlib
import gc
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Scripts, eventually, start_own
from in_process import work
from scripted_server import Server

from task_queue import QueueError
from task_queue.signal_free_thread import SignalFreeThread

NUMBERS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD
STOPPED = threading.Event()
STOPPED.set()


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in NUMBERS]


def state() -> list[Any]:
    """Return what a call of listen() may have changed."""
    signal.set_wakeup_fd(wakeup := signal.set_wakeup_fd(-1))
    threads = [each for each in threading.enumerate() if isinstance(each, SignalFreeThread) and each.name != "printer"]
    return [*handlers(), wakeup, signal.pthread_sigmask(signal.SIG_BLOCK, []), threads]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(params=[True, False], ids=["own handlers", "those of Python"])
def _of_program(request: pytest.FixtureRequest, at_server: Scripts, server: Server) -> Iterator[None]:
    """What a program may have set itself."""
    work(at_server, print)  # what is made once is there
    eventually(lambda: server.sessions[0].consumer is None, "the server has noticed the end")
    with contextlib.ExitStack() as undo:
        if request.param:
            _ours, its = map(undo.enter_context, socket.socketpair())
            its.setblocking(False)
            undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(its.fileno()))
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, blocked)
            for number in NUMBERS:
                own = signal.SIG_IGN if number == signal.SIGCHLD else lambda *_: None
                undo.callback(signal.signal, number, signal.signal(number, own))
        yield


WAYS: dict[str, tuple[dict[str, Any], int, Any]] = {  # its options, a signal that a task gets, and what is raised
    "an event": ({"stop": STOPPED}, 0, contextlib.nullcontext()),
    "refused": ({"url": "amqp://localhost:1"}, 0, pytest.raises(QueueError)),
    "SIGTERM": ({}, signal.SIGTERM, pytest.raises(SystemExit)),
    "SIGHUP": ({}, signal.SIGHUP, pytest.raises(KeyboardInterrupt)),
    "Ctrl+C": ({}, signal.SIGINT, pytest.raises(KeyboardInterrupt)),
    "burst": ({}, 0, contextlib.nullcontext()),
}


@pytest.mark.usefixtures("_of_program")
@pytest.mark.parametrize("way", WAYS)
def test_listen_leaves_the_signals_as_they_were(at_server: Scripts, server: Server, way: str) -> None:
    """Nor does it leave a thread or a descriptor behind."""
    options, number, raises = WAYS[way]
    server.put(b"task")
    gc.collect()  # else it might close meanwhile what an earlier test has left
    before, open_before = state(), descriptors()
    with raises:
        work(at_server, lambda _: os.kill(os.getpid(), number), **options)
    assert state() == before
    eventually(lambda: descriptors() == open_before, "none is left, nor one of the server's")


AGAIN_AND_AGAIN = """
def perform(task):
    print("in a call", flush=True)
    time.sleep(0.5)

def main():
    while True:
        listen(perform, burst=True)
        print("between two calls", flush=True)
        time.sleep(60)

"""


@pytest.mark.parametrize("place", ["in a call", "between two calls"])
@pytest.mark.parametrize("way", ["run(main)", "main()"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_program(
    at_server: Scripts, server: Server, number: signal.Signals, way: str, place: str
) -> None:
    if is_in_call := place == "in a call":
        server.put(b"task")
    run = start_own(at_server, AGAIN_AND_AGAIN + way)
    run.shows(place)
    run.send(number)
    # Without run(), it is Python's own traceback for Ctrl+C, and its status.
    of_python = 130 if (number, way) == (signal.SIGINT, "run(main)") else -number
    status = 0 if is_in_call and number == signal.SIGTERM else of_python
    assert run.process.wait(10) == status
    assert ("Done" if number == signal.SIGTERM else "Not finished") in run.out or not is_in_call
    assert ("between" in run.out) != is_in_call
    assert ("Traceback" in run.err) == (status == -signal.SIGINT)


def test_a_program_that_goes_on_after_its_worker_hears_signals(at_server: Scripts, server: Server) -> None:
    program = """
        threading.Thread(target=time.sleep, args=[60]).start()
        run(lambda: listen(print, burst=True))
    """
    run = start_own(at_server, program)
    run.shows("Stopped.")
    eventually(lambda: run.process.poll() is not None or run.send(signal.SIGTERM), "it ends")
    assert run.process.returncode == -signal.SIGTERM


FORKS = """
def wait():
    os.write(writes, b"%d" % signal.set_wakeup_fd(-1))  # a signal that comes before, Python itself forgets
    time.sleep(20)

ends = {"1": wait, "15": wait, "error": lambda: 1 / 0, "status": lambda: sys.exit(3), "text": lambda: sys.exit("why")}
reads, writes = os.pipe()

def perform(task):
    if (pid := os.fork()) == 0:
        print("in the child", end=" ")
        return ends.get(task.text, int)()
    if task.text.isdigit():
        print("wakeup", os.read(reads, 9))
        os.kill(pid, int(task.text))
    print(task.text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

"""
CALLS = {
    "a worker": "listen(perform, max_tasks=6)",
    "a worker within a worker": "listen(lambda _: listen(perform, max_tasks=6), max_tasks=1)",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_process_that_a_task_forks_dies_of_a_signal_says_why_it_fails_and_settles_nothing(
    at_server: Scripts, server: Server, call: str
) -> None:
    server.put(*[b"outer"] * (call != "a worker"), b"1", b"15", b"error", b"status", b"text", b"end")
    run = start_own(at_server, FORKS + CALLS[call])
    assert run.process.wait(20) == 0
    ends = [line for line in run.lines if re.fullmatch(r"[\w ]+ -?\d+", line)]
    by_itself = [f"in the child {end}" for end in ("error 1", "status 3", "text 1", "end 0")]
    assert ends == ["1 -1", "15 -15", *by_itself]
    assert run.lines.count("wakeup b'-1'") == 2
    assert run.err.count("Traceback") == 1
    assert "ZeroDivisionError" in run.err
    assert run.err.endswith("why\n")
    assert len(server.got("Basic.Ack")) == 6 + (call != "a worker")
    assert server.got("Basic.Reject") == server.got("Basic.Nack") == []
    assert len(server.sessions) == 1 + (call != "a worker")


DIES_AT_ONCE = """
import os
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), 15))  # ours, which come later, are called later
from listening_worker import listen
listen(lambda _: print("status", os.waitpid(os.fork() or os._exit(0), 0)[1]), burst=True)
"""


def test_a_signal_counts_that_a_forked_process_gets_with_our_handlers(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    assert "status 15" in at_server.start_program(DIES_AT_ONCE).ends().lines


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
