"""Signals: what they end however things stand, and whose they are again when a worker of one's own is over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PROJECT, Run, Scripts, eventually, fill, waits_for_output
from relay import Relay
from scripted_server import Server


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Ignore signals, and have what is started meanwhile inherit that, as from nohup or a shell's `&`."""
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


# ---- Who gets them


def blocked_in_threads(pid: int) -> dict[int, set[int]]:
    """Return for each thread of a process which of the signals that end it the system does not give to it (Linux)."""
    blocked = {}
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        mask = int(dict(line.split(":\t") for line in status.read_text().splitlines())["SigBlk"], 16)
        blocked[int(status.parent.name)] = {number for number in ENDING if mask & 1 << (number - 1)}
    return blocked


def check_only_main_gets_signals(run: Run, threads: int) -> None:
    blocked = blocked_in_threads(run.process.pid)
    assert blocked.pop(run.process.pid) == set()
    assert len(blocked) >= threads
    assert all(signals == set(ENDING) for signals in blocked.values())


def test_signals_come_to_the_main_thread_alone(scripts: Scripts) -> None:
    """Linux may give one to any thread, and then what the main one waits for, such as a line of a pipe, goes on."""
    emitter = scripts.emitter(stdin=subprocess.PIPE)
    assert emitter.process.stdin
    with emitter.process.stdin as pipe:
        pipe.write(b"x" * 200_000 + b"\n")  # more than a pipe takes
        pipe.flush()
        worker = scripts.worker(
            "--run", f"{sys.executable} -c 'import time; print(\"It runs.\", flush=True); time.sleep(60)'"
        )
        worker.shows("It runs.")
        check_only_main_gets_signals(emitter, threads=1)  # the keeper
        check_only_main_gets_signals(worker, threads=2)  # and who feeds the command
        for run in (emitter, worker):
            run.send(signal.SIGINT)
        emitter.ends(130)
        worker.ends()


INTERRUPTS_NOTHING = """
import os, signal, threading
from pathlib import Path
from listening_worker import listen

def send():
    while "pipe" not in Path(f"/proc/{os.getpid()}/wchan").read_text():
        pass
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

def perform(task):
    threading.Thread(target=send, daemon=True).start()
    os.read(os.pipe()[0], 1)

if __name__ == "__main__":
    listen(perform)
"""


def test_a_signal_that_interrupts_nothing_is_heard_all_the_same(scripts: Scripts) -> None:
    """As one that comes when the main thread is about to wait; here another thread has noted it for Python."""
    scripts.emit("task")
    run = scripts.program(INTERRUPTS_NOTHING)
    assert " [*] Not finished, so it goes back to the queue: task" in run.lines


# ---- A program of one's own


STATE = """
import os, signal, threading
from listening_worker import listen
from task_queue import QueueError

NUMBERS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP

def handlers():
    return [signal.getsignal(number) for number in NUMBERS]

def state():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return [*handlers(), fd]

def raising(number):
    return lambda task: os.kill(os.getpid(), number)

def have_own_handlers():
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes)
    for number in NUMBERS:
        signal.signal(number, lambda *_: print("not heard by the worker"))
"""


@pytest.mark.parametrize("handlers", ["Python's own handlers", "handlers of one's own"])
def test_listen_leaves_the_signals_as_they_were(scripts: Scripts, handlers: str) -> None:
    program = f"""{STATE}
if {handlers == "handlers of one's own"}:
    have_own_handlers()

def refused():
    try:
        listen(print, url="amqp://localhost:1")
    except QueueError:
        print("refused")

ways = {{
    "burst": lambda: listen(print, burst=True),
    "SIGTERM": lambda: listen(raising(signal.SIGTERM)),
    "SIGHUP": lambda: listen(raising(signal.SIGHUP)),
    "Ctrl+C": lambda: listen(raising(signal.SIGINT)),
    "refused": refused,
}}
for name in ("refused", "SIGTERM", "SIGHUP", "Ctrl+C", "burst", "burst"):
    before = state()
    ways[name]()
    print(name, "changes", [one for one, other in zip(before, state()) if one != other])
"""
    scripts.emit(stdin=b"one\ntwo\nthree\nfour\n")
    lines = scripts.program(program).lines
    assert [line for line in lines if "changes" in line] == [
        f"{name} changes []" for name in ("refused", "SIGTERM", "SIGHUP", "Ctrl+C", "burst", "burst")
    ]
    assert lines.count(" [*] Stopped.") == 5
    assert "not heard by the worker" not in lines


def test_listen_in_another_thread_leaves_the_signals_alone(scripts: Scripts) -> None:
    program = f"""{STATE}
def perform(task):
    print(task.text, "changes", handlers() != before[:3])

have_own_handlers()
before = state()
thread = threading.Thread(target=listen, args=(perform,), kwargs={{"burst": True}})
thread.start()
while thread.is_alive():
    thread.join(0.1)
print("the end changes", state() != before)
"""
    scripts.emit(stdin=b"one\ntwo\n")
    lines = scripts.program(program).lines
    assert [line for line in lines if "changes" in line] == [
        "one changes False",
        "two changes False",
        "the end changes False",
    ]
    assert lines.count(" [x] Done.") == 2


def test_signals_that_a_program_ignores_stay_ignored(scripts: Scripts) -> None:
    program = f"""{STATE}
def perform(task):
    for number in NUMBERS:
        os.kill(os.getpid(), number)

for number in NUMBERS:
    signal.signal(number, signal.SIG_IGN)
listen(perform, burst=True)
print(handlers() == [signal.SIG_IGN] * 3)
"""
    scripts.emit(stdin=b"one\ntwo\n")
    lines = scripts.program(program).lines
    assert lines.count(" [x] Done.") == 2
    assert lines[-1] == "True"


POOL = """
import multiprocessing, signal, sys
from listening_worker import listen, run

def found(_):
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)], signal.set_wakeup_fd(-1)

def perform(task):
    with multiprocessing.get_context("fork").Pool(2) as pool:  # which ends its processes by SIGTERM
        print(pool.map(found, [1]))

if "run" in sys.argv:
    run(lambda: listen(perform))
listen(perform)
"""


@pytest.mark.parametrize("way", ["run", "listen"])
def test_a_worker_goes_on_after_a_task_that_has_ended_processes_of_its_own(
    at_server: Scripts, server: Server, way: str
) -> None:
    program = at_server.folder / "work.py"
    program.write_text(POOL)
    worker = at_server.start_command(at_server.command(str(program), way))
    for number in range(1, 4):
        server.put(b"task")
        worker.shows("Done.", times=number)
    nothing_of_ours = "[([<Handlers.SIG_DFL: 0>, <Handlers.SIG_DFL: 0>], -1)]"
    assert worker.lines.count(nothing_of_ours) == 3
    since = time.monotonic()
    eventually(lambda: worker.process.poll() is not None or time.monotonic() > since + 0.3, "as long as a signal takes")
    assert "Stopped" not in worker.out
    worker.send(signal.SIGTERM)
    worker.ends()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_process_that_a_task_forks_dies_of_a_signal_and_the_worker_goes_on(
    scripts: Scripts, number: signal.Signals
) -> None:
    program = f"""
import os, time
from listening_worker import listen

def perform(task):
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writes, b".")  # what comes before, Python itself forgets
        time.sleep(5)
        os._exit(0)
    os.read(reads, 1)
    os.kill(pid, {number.value})
    print("died of", os.WTERMSIG(os.waitpid(pid, 0)[1]))

if __name__ == "__main__":
    listen(perform, burst=True)
"""
    scripts.emit(stdin=b"one\ntwo\n")
    run = scripts.program(program)
    assert run.lines.count(f"died of {number.value}") == 2
    assert run.lines.count(" [x] Done.") == 2
    assert run.err == ""


# ---- The scripts


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(scripts: Scripts, number: signal.Signals) -> None:
    with ignored(number):
        emitter = scripts.emitter("--verbose", stdin=subprocess.PIPE)
        worker = scripts.worker("--run", f"sh -c 'kill -{number.value} $$; echo the command goes on'")
    assert emitter.process.stdin
    with emitter.process.stdin as pipe:
        pipe.write(b"one\n")
        pipe.flush()
        worker.shows("the command goes on")
        emitter.send(number)
        worker.send(number)
        pipe.write(b"two\n")
    emitter.ends()
    worker.shows("Done.", times=2)
    worker.send(signal.SIGINT)
    worker.ends()


def test_a_worker_whose_output_nobody_reads_ends_when_asked_again(scripts: Scripts) -> None:
    reader, writer = os.pipe()
    worker = scripts.start("listening_worker.py", "--log-file", scripts.log, stdout=writer)
    assert b"Waiting" in os.read(reader, 1000)
    fill(writer)
    os.close(writer)
    scripts.emit("task")
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 0, "the worker has the task")
    eventually(lambda: waits_for_output(worker.process.pid), "it can't tell so")

    def has_ended() -> bool:
        worker.send(signal.SIGTERM)
        return worker.process.poll() is not None

    eventually(has_ended, "asked for long, it ends", within=40)
    os.close(reader)
    assert worker.process.returncode in (0, 130)
    assert scripts.events("done") or eventually(lambda: scripts.broker.bodies(scripts.queue) == ["task"], "it is back")


@pytest.mark.parametrize("busy_with", ["nothing", "a task", "reconnecting"])
def test_a_broker_that_is_frozen_does_not_keep_a_worker_from_ending(
    scripts: Scripts, relay: Relay, busy_with: str
) -> None:
    worker = scripts.worker("--url", relay.url, "--seconds-per-dot", 0.3)
    if busy_with == "a task":
        scripts.emit("task..")
        worker.shows("1 of 2")
    relay.freeze()
    if busy_with == "reconnecting":
        relay.cut()
        worker.shows("Reconnecting")
        eventually(lambda: relay.sockets, "it tries")
    worker.send(signal.SIGTERM)
    worker.ends(within=8)  # five, and some for a loaded machine
    assert worker.lines[-1] == " [*] Stopped."
    if busy_with == "a task":
        relay.cut()
        eventually(lambda: scripts.broker.bodies(scripts.queue) == ["task.."], "it is not lost")


# ---- The suite


def test_what_the_suite_starts_ignores_no_signal(tmp_path: Path) -> None:
    run = Run(["grep", "SigIgn", "/proc/self/status"], tmp_path, dict(os.environ)).ends()
    ignores = int(run.out.split()[1], 16)
    assert [number for number in ENDING if ignores >> (number - 1) & 1] == []


def test_not_even_when_the_suite_was_told_to_ignore_them(tmp_path: Path) -> None:
    same = f"{__file__}::{test_what_the_suite_starts_ignores_no_signal.__name__}"
    options = ["-n0", "-pno:cacheprovider", f"--basetemp={tmp_path}/again"]
    with ignored(*ENDING):
        assert subprocess.run([sys.executable, "-m", "pytest", *options, same], cwd=PROJECT).returncode == 0


FORKS_ALL_THE_TIME = """
import os
from listening_worker import listen

def perform(task):
    print("forks", flush=True)
    while True:
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)

listen(perform)
"""


@pytest.mark.parametrize("attempt", range(3))
def test_ctrl_c_counts_while_a_task_forks(at_server: Scripts, server: Server, attempt: int) -> None:
    (at_server.folder / "work.py").write_text(FORKS_ALL_THE_TIME)
    server.put(b"task")
    worker = at_server.start_command(at_server.command(str(at_server.folder / "work.py")))
    worker.shows("forks")
    worker.send(signal.SIGINT)
    worker.ends(within=5)
    assert "Not finished, so it goes back to the queue: task" in worker.out


# ---- A program of one's own that ends by run()

GOES_ON = """
import sys, threading, time
from listening_worker import listen, run

def perform(task):
    pass

def main():
    listen(perform, burst=True)
    if "code" in sys.argv:
        print("goes on", flush=True)
        time.sleep(60)

if "thread" in sys.argv:
    threading.Thread(target=lambda: [print("goes on", flush=True), time.sleep(60)]).start()
try:
    run(main)
except SystemExit:
    if "again" not in sys.argv:
        raise
    print("goes on", flush=True)
    run(lambda: listen(perform))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", ["code", "thread", "again"])
def test_a_program_that_goes_on_after_its_worker_hears_signals(
    at_server: Scripts, server: Server, way: str, number: signal.Signals
) -> None:
    (at_server.folder / "work.py").write_text(GOES_ON)
    run = at_server.start_command(at_server.command(str(at_server.folder / "work.py"), way), cwd=at_server.folder)
    run.shows("goes on")
    run.shows("Stopped." if way != "again" else "To exit press CTRL+C")
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + 0.6, "longer than a signal that belongs to the worker may be late")
    run.send(number)
    interrupted = 130 if number == signal.SIGINT else -number
    assert run.process.wait(10) == {"again": 0, "thread": -number, "code": interrupted}[way]
