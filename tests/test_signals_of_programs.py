"""Signals in a program of one's own: the worker's for the time of a call, and the program's again afterwards."""

from __future__ import annotations

import signal
import time

import pytest
from harness import Run, Scripts, eventually, start_own
from scripted_server import Server

LEAVES = """
NUMBERS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD
stopped = threading.Event()
stopped.set()

def handlers():
    return [signal.getsignal(number) for number in NUMBERS]

def state():
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    threads = [thread.name for thread in threading.enumerate() if thread.name != "printer"]
    return *handlers(), wakeup, signal.pthread_sigmask(signal.SIG_BLOCK, []), len(os.listdir("/proc/self/fd")), threads

def in_another_thread():
    before, found = handlers(), []
    thread = threading.Thread(target=listen, args=[lambda _: found.append(handlers())], kwargs=dict(max_tasks=1))
    thread.start()
    thread.join()
    assert found == [before]

def raises(number):
    listen(lambda _: os.kill(os.getpid(), number))

ways = [
    ("an event", lambda: listen(print, stop=stopped)),
    ("refused", lambda: listen(print, url="amqp://localhost:1")),
    ("a thread", in_another_thread),
    ("SIGTERM", lambda: raises(signal.SIGTERM)),
    ("SIGHUP", lambda: raises(signal.SIGHUP)),
    ("Ctrl+C", lambda: raises(signal.SIGINT)),
    ("burst", lambda: listen(print, burst=True)),
    ("run", lambda: run(lambda: listen(print, burst=True))),
]
ways[0][1]()  # what is made once is there

if {has_own_handlers}:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes)
    for number in NUMBERS[:3]:
        signal.signal(number, lambda *_: print("mine"))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

for name, way in ways:
    before, raised = state(), "nothing"
    try:
        way()
    except BaseException as end:
        raised = type(end).__name__
    print(name, "raises", raised, "and changes", [(one, other) for one, other in zip(before, state()) if one != other])
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("has_own_handlers", [True, False])
def test_listen_leaves_the_signals_as_they_were(at_server: Scripts, server: Server, has_own_handlers: bool) -> None:
    """Nor does it leave a thread or a descriptor behind, or touch any handler from another thread."""
    server.put(b"one", b"two", b"three")
    run = start_own(at_server, LEAVES.format(has_own_handlers=has_own_handlers))
    assert run.process.wait(20) == (0 if has_own_handlers else -signal.SIGTERM)
    assert [line for line in run.lines if "changes" in line] == [
        "an event raises nothing and changes []",
        "refused raises QueueError and changes []",
        "a thread raises nothing and changes []",
        "SIGTERM raises SystemExit and changes []",
        "SIGHUP raises KeyboardInterrupt and changes []",
        "Ctrl+C raises KeyboardInterrupt and changes []",
        "burst raises nothing and changes []",
        "run raises SystemExit and changes []",
    ]
    assert run.lines.count("mine") == has_own_handlers


# ---- A program that calls listen() again and again


def again_and_again(scripts: Scripts, way: str) -> Run:
    program = f"""
        def perform(task):
            print("in a call", flush=True)
            time.sleep(0.3)

        def main():
            while True:
                listen(perform, burst=True)
                print("between two calls", flush=True)
                time.sleep(0.2)

        {way}
    """
    return start_own(scripts, program)


@pytest.mark.parametrize("way", ["run(main)", "main()"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_program_in_a_call(
    at_server: Scripts, server: Server, number: signal.Signals, way: str
) -> None:
    server.put(b"task")
    run = again_and_again(at_server, way)
    run.shows("in a call")
    run.send(number)
    interrupted = 130 if way == "run(main)" else -signal.SIGINT  # Python's own traceback for Ctrl+C, and its status
    assert run.process.wait(10) == (0 if number == signal.SIGTERM else interrupted)
    assert ("Done" if number == signal.SIGTERM else "Not finished") in run.out
    assert "between" not in run.out


@pytest.mark.parametrize("after", [0.03, 0.11, 0.17, 0.23, 0.31])
def test_the_first_signal_ends_the_program_whenever_it_comes(at_server: Scripts, server: Server, after: float) -> None:
    run = again_and_again(at_server, "run(main)")
    run.shows("between two calls")
    time.sleep(after)
    run.send(signal.SIGINT)
    assert run.process.wait(10) == 130
    assert "Traceback" not in run.err


# ---- Threads and processes of its own


def test_a_program_that_goes_on_after_its_worker_hears_signals(at_server: Scripts, server: Server) -> None:
    program = """
        threading.Thread(target=time.sleep, args=[60]).start()
        run(lambda: listen(print, burst=True))
    """
    run = start_own(at_server, program)
    run.shows("Stopped.")
    eventually(lambda: run.process.poll() is not None or run.send(signal.SIGTERM), "it ends")
    assert run.process.returncode == -signal.SIGTERM


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
