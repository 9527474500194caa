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
from in_process import work
from relay import Relay
from scripted_server import Server

from task_queue import WorkerError

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
    main = run.process.pid
    # For a moment, while it starts another thread, it gets none either.
    eventually(lambda: not blocked_in_threads(main)[main], "the main thread gets them")
    blocked = blocked_in_threads(main)
    blocked.pop(main)
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


# ---- A program of one's own


STATE = """
import os, signal, threading
from listening_worker import listen, run

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

def started(signal_number=None, **settings):
    try:
        listen(raising(signal_number) if signal_number else print, **settings)
    except BaseException as end:
        return type(end).__name__
    return "nothing"

ways = {{
    "burst": lambda: started(burst=True),
    "SIGTERM": lambda: started(signal.SIGTERM),
    "SIGHUP": lambda: started(signal.SIGHUP),
    "Ctrl+C": lambda: started(signal.SIGINT),
    "refused": lambda: started(url="amqp://localhost:1"),
    "run": lambda: started_by(run),
}}

def started_by(run):
    try:
        run(lambda: listen(print, burst=True))
    except SystemExit as end:
        return f"exit {{end.code or 0}}"

for name in ("refused", "SIGTERM", "SIGHUP", "Ctrl+C", "burst", "run", "burst"):
    before = state()
    raised = ways[name]()
    print(name, "raises", raised, "and changes", [one for one, other in zip(before, state()) if one != other])
"""
    scripts.emit(stdin=b"one\ntwo\nthree\nfour\n")
    lines = scripts.program(program).lines
    assert [line for line in lines if "changes" in line] == [
        "refused raises QueueError and changes []",
        "SIGTERM raises SystemExit and changes []",
        "SIGHUP raises KeyboardInterrupt and changes []",
        "Ctrl+C raises KeyboardInterrupt and changes []",
        "burst raises nothing and changes []",
        "run raises exit 0 and changes []",
        "burst raises nothing and changes []",
    ]
    assert lines.count(" [*] Stopped.") == 6
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


def test_nor_does_a_worker_within_a_worker_keep_it_from_dying(at_server: Scripts, server: Server) -> None:
    program = """
import os, signal, time
from listening_worker import listen

def perform(task):
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writes, b".")
        time.sleep(5)
        os._exit(0)
    os.read(reads, 1)
    os.kill(pid, signal.SIGTERM)
    print("died of", os.WTERMSIG(os.waitpid(pid, 0)[1]))

listen(lambda _: listen(perform, max_tasks=1), max_tasks=1)
"""
    server.put(b"outer", b"inner")
    run = at_server.start_program(program).ends()
    assert f"died of {signal.SIGTERM.value}" in run.lines
    assert len(server.got("Basic.Ack")) == 2


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
    # The last one may come when the handlers are put back, and Python ends.
    assert worker.process.returncode in (0, 130, -signal.SIGTERM)
    assert scripts.events("done") or eventually(lambda: scripts.broker.bodies(scripts.queue) == ["task"], "it is back")


def test_two_sigterms_at_nearly_the_same_time_are_one_and_a_later_one_forces(
    at_server: Scripts, server: Server
) -> None:
    """A supervisor may forward the one that its children have got already."""
    for number, (pause, end) in enumerate(((0.03, "Done."), (0.5, "Not finished")), 1):
        server.put(b"task....")
        worker = at_server.start("listening_worker.py", "--seconds-per-dot", 0.3)
        worker.shows("1 of 4")
        worker.send(signal.SIGTERM)
        since = time.monotonic()
        eventually(lambda: time.monotonic() > since + pause, "the second one comes")  # noqa: B023
        worker.send(signal.SIGTERM)
        assert end in worker.ends().out
        assert len(server.got("Basic.Ack")) == 1
        assert len(server.got("Basic.Nack")) == number - 1


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


# ---- Forks

FORKS_ALL_THE_TIME = """
import os
from listening_worker import listen, run

def perform(task):
    print("forks", flush=True)
    while True:
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)

run(lambda: listen(perform))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, None])
def test_a_signal_counts_while_a_task_forks(at_server: Scripts, server: Server, number: signal.Signals | None) -> None:
    """Nothing can be raised in the functions that Python calls around a fork; that is not to cost the signal."""
    (at_server.folder / "work.py").write_text(FORKS_ALL_THE_TIME)
    server.put(b"task")
    worker = at_server.start_command(at_server.command(str(at_server.folder / "work.py")))
    worker.shows("forks")
    if number is None:  # the second SIGTERM, which forces; within 0.2 s it would be taken for the first
        worker.send(signal.SIGTERM)
        since = time.monotonic()
        eventually(lambda: time.monotonic() > since + 0.3, "a little later")
    worker.send(number or signal.SIGTERM)
    worker.ends(130, within=5)
    assert "Not finished, so it goes back to the queue: task" in worker.out
    assert worker.err == ""


def test_a_forked_process_that_fails_says_so_and_settles_nothing(at_server: Scripts, server: Server) -> None:
    program = """
import os, sys
from listening_worker import listen

def perform(task):
    pid = os.fork()
    if pid == 0:
        print("in the child")
        ends = {"error": lambda: 1 / 0, "status": lambda: sys.exit(3), "text": lambda: sys.exit("why"), "end": int}
        return ends[task.text]()
    print(task.text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

listen(perform, burst=True)
"""
    server.put(b"error", b"status", b"text", b"end")
    run = at_server.start_program(program)
    run.process.wait(20)
    assert [line for line in run.lines if line[-1].isdigit()] == ["error 1", "status 3", "text 1", "end 0"]
    assert run.lines.count("in the child") == 4
    assert run.err.count("Traceback") == 1
    assert "ZeroDivisionError" in run.err
    assert run.err.endswith("why\n")
    assert len(server.got("Basic.Ack")) == 4


def test_ctrl_c_right_after_sigterm_forces(at_server: Scripts, server: Server) -> None:
    """Only the same signal twice at nearly the same time is one."""

    def perform(_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    server.put(b"task")
    with pytest.raises(KeyboardInterrupt):
        work(at_server, perform, burst=False)
    assert [record["event"] for record in at_server.events()] == ["received", "requeued"]


def test_a_signal_ends_the_program_though_its_call_fails_meanwhile(at_server: Scripts, server: Server) -> None:
    """Else a program that calls listen() again after each error would never end."""

    def perform(_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise WorkerError

    server.put(b"task")
    with pytest.raises(SystemExit) as end:
        work(at_server, perform, burst=False)
    assert end.value.code == 0


# ---- A program that calls listen() again and again

AGAIN_AND_AGAIN = """
import os, sys, time
from listening_worker import listen, run

def perform(task):
    print("in a call", flush=True)
    time.sleep(0.3)

def main():
    while True:
        listen(perform, burst=True)
        print("between two calls", flush=True)
        time.sleep(60 if "between" in sys.argv else 0.2)

run(main) if "run" in sys.argv else main()
"""


def again_and_again(scripts: Scripts, *arguments: str) -> Run:
    (scripts.folder / "work.py").write_text(AGAIN_AND_AGAIN)
    return scripts.start_command(scripts.command(str(scripts.folder / "work.py"), *arguments))


@pytest.mark.parametrize("way", ["run", "alone"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_program_in_a_call(
    at_server: Scripts, server: Server, number: signal.Signals, way: str
) -> None:
    server.put(b"task")
    run = again_and_again(at_server, way)
    run.shows("in a call")
    run.send(number)
    interrupted = 130 if way == "run" else -signal.SIGINT  # Python's own traceback for Ctrl+C, and its status
    assert run.process.wait(10) == (0 if number == signal.SIGTERM else interrupted)
    assert ("Done" if number == signal.SIGTERM else "Not finished") in run.out
    assert "between" not in run.out


@pytest.mark.parametrize("way", ["run", "alone"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_program_between_two_calls(
    at_server: Scripts, server: Server, number: signal.Signals, way: str
) -> None:
    run = again_and_again(at_server, way, "between")
    run.shows("between two calls")
    run.send(number)
    assert run.process.wait(10) == (130 if (way, number) == ("run", signal.SIGINT) else -number)


@pytest.mark.parametrize("after", [0.03, 0.11, 0.17, 0.23, 0.31])
def test_the_first_signal_ends_the_program_whenever_it_comes(at_server: Scripts, server: Server, after: float) -> None:
    run = again_and_again(at_server, "run")
    run.shows("between two calls")
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + after, "later")
    run.send(signal.SIGINT)
    assert run.process.wait(10) == 130
    assert "Traceback" not in run.err


# ---- Workers in threads, and their events

THREADS = """
import threading, time
from pathlib import Path
from listening_worker import listen

def lines_of_two_workers():
    other = threading.Thread(target=listen, args=[lambda _: None], kwargs=dict(max_tasks=300))
    other.start()
    stop = threading.Event()
    one = threading.Thread(target=listen, args=[print], kwargs=dict(stop=stop, queue="test-other"))
    one.start()
    time.sleep(0.3)
    stop.set()
    one.join()
    Path("ended").touch()

def threads_that_are_left():
    stop = threading.Event()
    stop.set()
    before = threading.active_count()
    for _ in range(20):
        listen(print, stop=stop)
    print("threads more:", threading.active_count() - before)

{}()
"""


def test_a_worker_that_is_stopped_by_an_event_leaves_no_thread_behind(at_server: Scripts, server: Server) -> None:
    run = at_server.start_program(THREADS.format("threads_that_are_left")).ends()
    assert run.lines.count(" [*] Stopped.") == 20
    assert int(run.lines[-1].removeprefix("threads more: ")) <= 1  # the one that prints


def test_a_worker_that_is_stopped_makes_no_other_one_lose_its_lines(scripts: Scripts) -> None:
    """Their output is a pipe that is read late, so lines have to wait."""
    reader, writer = os.pipe()
    scripts.emit(stdin=(b"x" * 400 + b"\n") * 300)
    run = scripts.start_program(THREADS.format("lines_of_two_workers"), stdout=writer)
    os.close(writer)
    eventually((scripts.folder / "ended").exists, "the one has ended")
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + 1, "longer than a line of it would have waited")
    with open(reader, "rb") as pipe:
        assert pipe.read().count(b" [x] Done.") == 300
    run.ends()


# ---- A program of one's own that ends by run()

GOES_ON = """
import sys, threading, time
from listening_worker import listen, run

def main():
    listen(print, burst=True)
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
    run(lambda: listen(print))
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
    eventually(lambda: run.process.poll() is not None or run.send(number), "it ends")
    ends = {signal.SIGTERM: {"again": 0}, signal.SIGINT: {"again": 130, "code": 130, "thread": run.process.returncode}}
    assert run.process.returncode == ends[number].get(way, -number)


def test_ctrl_c_while_the_options_are_read_is_no_traceback(at_server: Scripts) -> None:
    (at_server.folder / "sitecustomize.py").write_text(
        "import argparse, os, signal\n"
        "argparse.ArgumentParser.parse_known_args = lambda *_: os.kill(os.getpid(), signal.SIGINT) or 1 / 0\n"
    )
    for script in ("emitter_of_tasks.py", "listening_worker.py"):
        run = at_server.start(script, env={"PYTHONPATH": str(at_server.folder)}).ends(130)
        assert run.err == ""
