"""listen() in other people's programs: what it refuses, how it is stopped, and what it leaves as it was."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest
import task_queue.consumer
from harness import DEADLINE, Run, Scripts, eventually, fill, waits_for_output
from in_process import work, working
from scripted_server import Got, Server, Session

from listening_worker import listen
from task_queue import SettingsError


def start(scripts: Scripts, program: str, **popen: Any) -> Run:
    """Start a user's own program."""
    return scripts.start_program("from listening_worker import listen\n" + textwrap.dedent(program), **popen)


# ---- Work that would never be done

NEVER_DONE = {
    "coroutine": "async def work(task): pass",
    "generator": "def work(task): yield",
    "async generator": "async def work(task): yield",
    "partial": "async def f(x, task): pass\nwork = functools.partial(f, 1)",
    "partial of a partial": "def f(x, y, task): yield\nwork = functools.partial(functools.partial(f, 1), 2)",
    "object": "class C:\n    async def __call__(self, task): pass\nwork = C()",
    "partial of an object": "class C:\n    def __call__(self, x, task): yield\nwork = functools.partial(C(), 1)",
    "method": "class C:\n    async def m(self, task): pass\nwork = C().m",
    "class method": "class C:\n    @classmethod\n    async def m(cls, task): pass\nwork = C.m",
}


def made_by(code: str) -> Any:
    """Return the function `work` that this code defines."""
    names: dict[str, Any] = {"functools": functools}
    exec(code, names)  # noqa: S102
    return names["work"]


@pytest.mark.parametrize("code", NEVER_DONE.values(), ids=NEVER_DONE)
def test_a_function_that_only_begins_its_work_is_refused_before_a_task_is_taken(
    at_server: Scripts, server: Server, code: str
) -> None:
    with pytest.raises(TypeError, match="would only be begun, not done"):
        work(at_server, made_by(code))
    assert server.sessions == []


RESULTS = {
    "coroutine": "async def f(): pass\nwork = lambda task: f()",
    "wrapped coroutine": "async def f(task): pass\n@functools.wraps(f)\ndef work(task):\n    return f(task)",
    "awaitable": "class A:\n    def __await__(self): yield\nwork = lambda task: A()",
}


@pytest.mark.parametrize("code", RESULTS.values(), ids=RESULTS)
def test_a_result_that_nobody_awaits_ends_the_worker_and_the_task_failed_once(
    at_server: Scripts, server: Server, code: str
) -> None:
    server.put(b"task", b"another")
    with pytest.raises(TypeError, match="The work was only begun, not done"):
        work(at_server, made_by(code), burst=False)
    assert len(server.got("Basic.Reject")) == 1
    assert server.got("Basic.Ack") == server.got("Basic.Nack") == []
    assert list(server.tasks) == [(b"task", True), (b"another", False)]
    assert [record["event"] for record in at_server.events()] == ["received", "failed"]


def test_what_else_a_function_returns_does_not_matter(at_server: Scripts, server: Server) -> None:
    class NoBool:
        def __bool__(self) -> bool:
            raise ValueError

    results = [0, "text", [1], print, threading.Thread(), NoBool(), map(print, [])]
    server.put(*(b"%d" % number for number in range(len(results))))
    work(at_server, lambda task: results[int(task.text)])
    assert len(server.got("Basic.Ack")) == len(results)


def test_a_wrapper_that_runs_the_coroutine_is_no_such_function(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    done = []

    async def coroutine(task: Any) -> None:
        done.append(task.text)

    @functools.wraps(coroutine)
    def wrapper(task: Any) -> None:
        asyncio.run(coroutine(task))

    work(at_server, wrapper)
    assert done == ["task"]
    assert len(server.got("Basic.Ack")) == 1


def test_what_can_not_be_called_is_refused(at_server: Scripts, server: Server) -> None:
    with pytest.raises(TypeError, match="needs a function, and 'work' is none"):
        work(at_server, "work")  # type: ignore[arg-type]
    assert server.sessions == []


NO_SETTINGS: list[tuple[str, object]] = [
    *((name, value) for name in ("max_tasks", "ack_timeout") for value in ("3", 0, -1, True, float("nan"))),
    ("ack_timeout", None),
    ("ack_timeout", float("inf")),
    *((name, "") for name in ("url", "queue", "name", "log_file")),  # empty, which is never the default
]


@pytest.mark.parametrize(("name", "value"), NO_SETTINGS)
def test_a_setting_that_makes_no_sense_is_refused_as_the_flag_would_be(
    at_server: Scripts, server: Server, name: str, value: object
) -> None:
    with pytest.raises(SettingsError) as refused:
        work(at_server, print, **{name: value})
    assert value == "" or str(refused.value).startswith(f"{name} must be ")
    assert server.sessions == []


@pytest.mark.parametrize("is_main", [True, False])
def test_a_task_that_raises_keyboard_interrupt_itself_has_failed(
    at_server: Scripts, server: Server, is_main: bool
) -> None:
    """Handed back uncounted, it would end every worker in turn."""

    def perform(task: Any) -> None:
        if not task.redelivered:
            raise KeyboardInterrupt

    server.put(b"task")
    if is_main:
        work(at_server, perform)
    else:
        with working(at_server, perform):
            server.gets("Basic.Ack")
    assert [record["event"] for record in at_server.events()] == ["received", "failed", "received", "done"]
    assert len(server.got("Basic.Reject")) == 1
    assert server.got("Basic.Nack") == []


@pytest.mark.parametrize("ends_by", ["failure", "lost connection"])
def test_a_burst_waits_for_the_next_try_of_what_failed_in_it(at_server: Scripts, server: Server, ends_by: str) -> None:
    """RabbitMQ 4.3 counts it nowhere meanwhile, and also takes a lost connection for a failure."""

    def give_back(body: bytes) -> None:
        time.sleep(0.5)
        with server.lock:
            server.tasks.append((body, True))
            server.hand_out()

    def keep(session: Session, _got: Got) -> None:
        (body, _), *_ = session.in_hand.values()
        session.in_hand.clear()
        threading.Thread(target=give_back, args=[body]).start()

    def perform(task: Any) -> None:
        if not task.redelivered and ends_by == "failure":
            raise ValueError
        if not task.redelivered:
            keep(server.session(0), server.received[-1])
            server.session(0).hang_up()
            server.gets("Queue.Declare", times=3)  # it is connected again

    server.on("Basic.Reject", keep)
    server.put(b"task")
    work(at_server, perform)
    first = "failed" if ends_by == "failure" else "ack-lost"
    assert [record["event"] for record in at_server.events()] == ["received", first, "received", "done"]


def test_a_burst_waits_no_longer_when_what_failed_in_it_is_done(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver(session: Session, got: Got) -> None:
        session.in_hand.clear()
        if got.name == "Basic.Consume":
            session.answer(got)
        session.deliver(b"task", redelivered=got.name == "Basic.Reject", message_id="an id")

    def perform(task: Any) -> None:
        if not task.redelivered:
            raise ValueError

    monkeypatch.setattr(task_queue.consumer, "LATE", 3600.0)
    server.on("Basic.Consume", deliver)
    server.on("Basic.Reject", deliver)
    with working(at_server, perform, burst=True) as worker:
        worker.join(DEADLINE)
        assert not worker.is_alive()
    assert [record["event"] for record in at_server.events()] == ["received", "failed", "received", "done"]


# ---- Stopping it from another thread


@pytest.mark.parametrize("is_main", [True, False])
def test_an_event_ends_a_worker_that_waits(at_server: Scripts, server: Server, is_main: bool) -> None:
    stop = threading.Event()
    threading.Thread(target=lambda: (server.gets("Basic.Consume"), stop.set())).start()
    if is_main:
        assert work(at_server, print, stop=stop, burst=False)[-1] == " [*] Stopped."
    else:
        with working(at_server, print, stop=stop) as worker:
            worker.join(5)
            assert not worker.is_alive()
    assert len(server.gets("Connection.Close")) == 1


@pytest.mark.parametrize("is_main", [True, False])
def test_an_event_lets_the_task_in_hand_finish_and_takes_no_other(
    at_server: Scripts, server: Server, is_main: bool
) -> None:
    server.put(b"one", b"two")
    stop, finished = threading.Event(), []

    def perform(task: Any) -> None:
        stop.set()
        time.sleep(0.1)
        finished.append(task.text)

    if is_main:
        work(at_server, perform, stop=stop, burst=False)
    else:
        with working(at_server, perform, stop=stop) as worker:
            worker.join(20)
    assert finished == ["one"]
    assert len(server.got("Basic.Ack")) == 1
    assert list(server.tasks) == [(b"two", False)]


def test_an_event_that_is_set_already_lets_it_take_nothing(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    stop = threading.Event()
    stop.set()
    work(at_server, print, stop=stop, burst=False)
    assert list(server.tasks) == [(b"task", False)]


def test_a_task_that_comes_together_with_the_event_is_not_begun(at_server: Scripts, server: Server) -> None:
    stop = threading.Event()
    threading.Thread(target=lambda: (server.gets("Basic.Consume"), stop.set(), server.put(b"task"))).start()
    work(at_server, print, stop=stop, burst=False)
    assert at_server.events() == []
    assert server.got("Basic.Ack") == []


def test_an_event_ends_a_worker_whose_output_is_paused(at_server: Scripts, server: Server) -> None:
    program = """
        import threading
        stop = threading.Event()
        threading.Thread(target=lambda: (input(), stop.set())).start()
        listen(lambda task: None, stop=stop)
    """
    reader, writer = os.pipe()
    run = start(at_server, program, stdin=subprocess.PIPE, stdout=writer, bufsize=0)
    server.gets("Basic.Consume")
    fill(writer)
    os.close(writer)
    server.put(b"one", b"two")
    eventually(lambda: waits_for_output(run.process.pid), "it can't tell of the task")
    assert run.process.stdin
    run.process.stdin.write(b"now\n")
    run.process.stdin.close()
    run.ends(within=10)
    os.close(reader)
    assert list(server.tasks)[-1] == (b"two", False)


# ---- In other people's programs


def test_a_standard_output_that_is_no_file_gets_all_lines(at_server: Scripts, server: Server) -> None:
    server.put(b"Gr\xc3\xb6\xc3\x9fe")
    program = """
        import sys
        class Tee:
            def __init__(self, *streams): self.streams = streams
            def write(self, text): [stream.write(text) for stream in self.streams]
            def flush(self): [stream.flush() for stream in self.streams]
            def fileno(self): return self.streams[0].fileno()
        with open("copy.txt", "w") as copy:
            sys.stdout = Tee(sys.stdout, copy)
            listen(lambda task: print("printed"), max_tasks=1)
            sys.stdout = sys.__stdout__
    """
    run = start(at_server, program).ends()
    assert (at_server.folder / "copy.txt").read_text() == run.out
    assert run.lines[1:4] == [" [x] Received Größe", "printed", " [x] Done."]


class Poor:
    """All that can stand in place of standard output."""

    def __init__(self) -> None:
        self.written = ""

    def write(self, text: str) -> None:
        self.written += text


def test_a_standard_output_that_can_do_little_ends_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put(b"task")
    poor = Poor()
    monkeypatch.setattr(sys, "stdout", poor)
    monkeypatch.setattr(sys, "stderr", poor)
    listen(lambda task: None, url=server.url, queue="tasks", max_tasks=1)
    assert poor.written.splitlines()[1:3] == [" [x] Received task", " [x] Done."]


def test_a_task_may_print_though_nobody_will_ever_read_it(at_server: Scripts, server: Server) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    server.put(b"task")
    run = start(at_server, "listen(lambda task: print('printed', flush=True), max_tasks=1)", stdout=writer)
    os.close(writer)
    run.ends()
    assert len(server.got("Basic.Ack")) == 1
    assert server.got("Basic.Reject") == []


def test_five_times_in_a_row_leaves_everything_as_it_was(at_server: Scripts, server: Server) -> None:
    server.put(*(b"%d" % number for number in range(5)))
    program = """
        import os, signal, threading
        def state():
            signals = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            wakeup = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(wakeup)
            return signals, mask, wakeup, len(os.listdir("/proc/self/fd"))
        signal.signal(signal.SIGTERM, lambda *_: print("mine"))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        listen(lambda task: None, max_tasks=1)
        before = state()
        for _ in range(4):
            listen(lambda task: None, max_tasks=1)
        for url in ["none://", "amqp://localhost:1/"]:
            try:
                listen(print, url=url)
            except Exception as e:
                pass
        assert state() == before, (before, state())
        assert [thread.name for thread in threading.enumerate() if thread.name != "outbox"] == ["MainThread"]
        os.kill(os.getpid(), signal.SIGTERM)
    """
    run = start(at_server, program).ends()
    assert run.lines[-1] == "mine"
    assert len(server.got("Basic.Ack")) == 5


def test_three_threads_listen_at_once(at_server: Scripts, server: Server) -> None:
    server.put(*(b"%d" % number for number in range(9)))
    together = threading.Barrier(3)

    def perform(_: object) -> None:
        together.wait(20)

    with working(at_server, perform), working(at_server, perform), working(at_server, perform):
        server.gets("Basic.Ack", times=9)


def test_a_worker_in_a_thread_of_an_asyncio_program(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    program = """
        import asyncio, signal
        async def main():
            loop = asyncio.get_running_loop()
            done = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, done.set)
            await loop.run_in_executor(None, lambda: listen(lambda task: None, max_tasks=1))
            signal.raise_signal(signal.SIGTERM)
            await done.wait()
        asyncio.run(main())
        print("heard")
    """
    assert start(at_server, program).ends().lines[-1] == "heard"
    assert len(server.got("Basic.Ack")) == 1


# ---- Processes of a task

FORKS = """
import os, sys, time
def work(task):
    if (child := os.fork()) == 0:
        print("in the child", end="")
        exec(task.text)
        return
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
listen(work, max_tasks=4)
"""


def test_a_forked_child_ends_with_its_own_status_its_output_is_kept_and_the_task_is_done_once(
    at_server: Scripts, server: Server
) -> None:
    server.put(b"pass", b"sys.exit(3)", b"raise SystemExit", b"1 / 0")
    run = start(at_server, FORKS)
    assert run.process.wait(20) == 0
    assert [line for line in run.lines if "child" in line] == [f"in the child{status}" for status in (0, 3, 0, 1)]
    assert run.lines.count(" [x] Done.") == len(server.got("Basic.Ack")) == 4
    assert "not finished" not in run.out + run.err
    assert server.got("Basic.Reject") == server.got("Basic.Nack") == []
    assert len(server.sessions) == 1


RUN_THERE = {
    "spawn": "child = context.Process(target=print); child.start(); child.join(); print(child.exitcode)",
    "forkserver": "with ProcessPoolExecutor(1, mp_context=context) as pool: pool.submit(abs, -5).result()",
}


@pytest.mark.parametrize("method", RUN_THERE)
def test_a_program_that_a_task_runs_again_by_mistake_takes_no_tasks(
    at_server: Scripts, server: Server, method: str
) -> None:
    """Without `if __name__ == "__main__":` each process that multiprocessing starts would be a worker."""
    server.put(b"one", b"two")
    program = f"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
context = multiprocessing.get_context("{method}")
def work(task):
    {RUN_THERE[method]}
listen(work, max_tasks=1)
"""
    run = start(at_server, program)
    run.process.wait(20)
    assert 'Put listen() under  if __name__ == "__main__":' in run.err
    assert len(server.sessions) == 1
    assert list(server.tasks) in ([(b"two", False)], [(b"one", True), (b"two", False)])


def test_a_worker_may_run_in_a_process_of_its_own(at_server: Scripts, server: Server) -> None:
    server.put(b"one", b"two", b"three")
    program = """
import multiprocessing
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        child = multiprocessing.get_context(method).Process(target=listen, args=[print], kwargs={"max_tasks": 1})
        child.start(); child.join()
        print("exit code", child.exitcode)
"""
    assert start(at_server, program).ends().lines.count("exit code 0") == 3
    assert len(server.got("Basic.Ack")) == 3
