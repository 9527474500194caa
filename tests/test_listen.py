"""listen() in other people's programs: what it refuses, how it is stopped, and what it leaves as it was."""

from __future__ import annotations

import subprocess
import textwrap
from typing import Any

import pytest
from harness import Run, Scripts, eventually
from scripted_server import Server


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


def test_a_function_that_only_begins_its_work_is_refused_before_a_task_is_taken(
    at_server: Scripts, server: Server
) -> None:
    program = f"""
import functools
for work in {list(NEVER_DONE.values())!r}:
    exec(work)
    try:
        listen(work)
    except TypeError as e:
        print("refused:", e)
"""
    lines = start(at_server, program.replace("listen(work)", "listen(locals()['work'])")).ends().lines
    assert [line.split(":")[0] for line in lines] == ["refused"] * len(NEVER_DONE)
    assert server.sessions == []


RESULTS = {
    "coroutine": "async def f(): pass\nwork = lambda task: f()",
    "wrapped coroutine": (
        "async def f(task): pass\n@functools.wraps(f)\ndef work(task):\n    print('begun')\n    return f(task)"
    ),
    "generator": "def f(): yield\nwork = lambda task: f()",
    "async generator": "async def f(): yield\nwork = lambda task: f()",
    "awaitable": "class A:\n    def __await__(self): yield\nwork = lambda task: A()",
    "map": "work = lambda task: map(print, ['one'])",
    "list of coroutines": "async def f(): pass\nwork = lambda task: [f(), f()]",
    "forgotten with": "import contextlib\n@contextlib.contextmanager\ndef work(task):\n    yield",
    "thread": "import threading\nwork = lambda task: threading.Thread(target=print)",
    "process": "import multiprocessing\nwork = lambda task: multiprocessing.Process(target=print)",
    "command": "import subprocess\nwork = lambda task: subprocess.Popen(['sleep', '1'])",
    "result of a pool": (
        "import time\nfrom multiprocessing.pool import ThreadPool\npool = ThreadPool(1)\n"
        "work = lambda task: pool.apply_async(time.sleep, [0.5])"
    ),
    "future": (
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor()\n"
        "work = lambda task: pool.submit(print, 'in the pool')"
    ),
}


@pytest.mark.parametrize("work", RESULTS.values(), ids=RESULTS)
def test_a_result_that_nobody_waits_for_ends_the_worker_and_the_task_failed_once(
    at_server: Scripts, server: Server, work: str
) -> None:
    server.put(b"task")
    quiet = "import warnings; warnings.simplefilter('ignore')"  # of processes and pools that are left behind
    program = (
        f"{quiet}\nimport functools\n{work}\ntry:\n    listen(work)\nexcept TypeError as e:\n    print('ended:', e)"
    )
    run = start(at_server, program).ends()
    assert "ended: The work was only begun, not done" in run.out
    assert "Done" not in run.out
    assert len(server.got("Basic.Reject")) == 1
    assert server.got("Basic.Ack") == []
    assert list(server.tasks) == [(b"task", True)]


def test_what_else_a_function_returns_does_not_matter(at_server: Scripts, server: Server) -> None:
    server.put(*(b"%d" % number for number in range(7)))
    work = """
        import sqlite3, subprocess, threading
        done = subprocess.Popen(["true"])
        done.wait()
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        bank = sqlite3.connect(":memory:")
        results = iter([0, "text", [1], print, done, thread, bank.execute("SELECT 1")])
        listen(lambda task: next(results), max_tasks=7)
        bank.close()
    """
    start(at_server, work).ends()
    assert len(server.got("Basic.Ack")) == 7


def test_a_wrapper_that_runs_the_coroutine_is_no_such_function(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    program = """
        import asyncio, functools
        async def f(task): print("worked")
        @functools.wraps(f)
        def work(task): asyncio.run(f(task))
        listen(work, max_tasks=1)
    """
    assert "worked" in start(at_server, program).ends().lines
    assert len(server.got("Basic.Ack")) == 1


def test_what_can_not_be_called_is_refused(at_server: Scripts, server: Server) -> None:
    run = start(at_server, "try:\n    listen('work')\nexcept TypeError as e:\n    print(e)").ends()
    assert run.lines == ["listen() needs a function, and 'work' is none."]
    assert server.sessions == []


def test_an_empty_setting_is_never_the_default(at_server: Scripts, server: Server) -> None:
    program = """
        from task_queue import SettingsError
        for setting in ("url", "queue", "name", "log_file"):
            try:
                listen(print, **{setting: ""})
            except SettingsError as e:
                print("refused:", setting)
    """
    lines = start(at_server, program).ends().lines
    assert lines == ["refused: url", "refused: queue", "refused: name", "refused: log_file"]
    assert server.sessions == []


NO_SETTINGS = [
    "max_tasks='3'",
    "max_tasks=0",
    "max_tasks=-1",
    "ack_timeout=-1",
    "ack_timeout=None",
    "ack_timeout=True",
    "max_tasks=True",
    "ack_timeout=float('inf')",
]
NO_SETTINGS += ["ack_timeout='1'", "name=5", "queue=5", "url=b'amqp://localhost'"]


def test_a_setting_that_makes_no_sense_is_refused_as_the_flag_would_be(at_server: Scripts, server: Server) -> None:
    program = f"""
        from task_queue import SettingsError
        for setting in {NO_SETTINGS!r}:
            try:
                exec(f"listen(print, {{setting}})")
            except SettingsError as e:
                print("refused:", e)
    """
    lines = start(at_server, program).ends().lines
    for line, setting in zip(lines, NO_SETTINGS):
        assert line.startswith(f"refused: {setting.split('=')[0]} must be "), setting
    assert len(lines) == len(NO_SETTINGS)
    assert server.sessions == []


# ---- Stopping it from another thread


def test_an_event_ends_a_worker_that_waits(at_server: Scripts, server: Server) -> None:
    program = """
        import threading
        stop = threading.Event()
        threading.Thread(target=lambda: (input(), stop.set())).start()
        listen(print, stop=stop)
        print("it has ended")
    """
    run = start(at_server, program, stdin=subprocess.PIPE, bufsize=0)
    server.gets("Basic.Consume")
    assert run.process.stdin
    run.process.stdin.write(b"now\n")
    run.process.stdin.close()
    run.ends(within=5)
    assert run.lines[-2:] == [" [*] Stopped.", "it has ended"]


@pytest.mark.parametrize("where", ["listen(work, stop=stop)", "IN_A_THREAD"])
def test_an_event_lets_the_task_in_hand_finish_and_takes_no_other(
    at_server: Scripts, server: Server, where: str
) -> None:
    server.put(b"one", b"two")
    in_a_thread = "threading.Thread(target=listen, args=[work], kwargs={'stop': stop}).start()"
    program = f"""
import threading, time
stop = threading.Event()
def work(task):
    stop.set()
    time.sleep(0.3)
    print("finished", task.text)
{where.replace("IN_A_THREAD", in_a_thread)}
"""
    run = start(at_server, program).ends()
    assert [line for line in run.lines if line.startswith("finished")] == ["finished one"]
    assert len(server.got("Basic.Ack")) == 1
    assert list(server.tasks) == [(b"two", False)]


def test_an_event_that_is_set_already_lets_it_take_nothing(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    start(at_server, "import threading\ns = threading.Event()\ns.set()\nlisten(print, stop=s)").ends()
    assert list(server.tasks) == [(b"task", False)]


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


@pytest.mark.parametrize("lacks", ["flush", "a known encoding", "an encoding that can do it"])
def test_a_standard_output_that_can_do_little_ends_nothing(at_server: Scripts, server: Server, lacks: str) -> None:
    server.put(b"task")
    encoding = {"a known encoding": "encoding = 'unknown-8bit'", "an encoding that can do it": "encoding = 'idna'"}
    program = f"""
        import sys
        out = sys.stdout
        class Poor:
            {encoding.get(lacks, "pass")}
            def write(self, text): out.write(text)
        sys.stdout = sys.stderr = Poor()
        listen(lambda task: None, max_tasks=1)
        sys.stdout, sys.stderr = out, sys.__stderr__
    """
    assert start(at_server, program).ends().lines[1:3] == [" [x] Received task", " [x] Done."]


def test_what_a_task_prints_fails_no_task_though_the_disk_is_full(at_server: Scripts, server: Server) -> None:
    server.put(*(b"%d" % number for number in range(10)))
    with open("/dev/full", "wb") as full:
        start(at_server, "listen(lambda task: print('x' * 3000), max_tasks=10, log_file='log')", stdout=full).ends()
    assert len(server.got("Basic.Ack")) == 10
    assert server.got("Basic.Reject") == []


def test_commands_are_not_taken_for_successes_in_a_thread_that_can_not_know(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    program = """
        import signal, threading
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        def listen_here():
            try:
                listen(print)
            except RuntimeError as e:
                print("refused:", e)
        thread = threading.Thread(target=listen_here)
        thread.start()
        thread.join()
    """
    assert start(at_server, program).ends().out.startswith("refused: SIGCHLD is ignored")
    assert list(server.tasks) == [(b"task", False)]


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
    program = """
        import threading
        together = threading.Barrier(3)
        def work(task):
            together.wait(20)
        threads = [threading.Thread(target=listen, args=[work], kwargs={"max_tasks": 3}) for _ in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    start(at_server, program).ends()
    eventually(lambda: len(server.got("Basic.Ack")) == 9, "all are done")


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
import os, sys
def work(task):
    if (child := os.fork()) == 0:
        print("in the child", end="")
        sys.exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
listen(work, max_tasks=1)
"""


def test_a_forked_child_ends_with_its_own_status_and_its_output_is_kept(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    run = start(at_server, FORKS).ends()
    assert "in the child3" in run.lines
    assert len(server.got("Basic.Ack")) == 1


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("pool", ["multiprocessing", "concurrent.futures"])
def test_a_program_that_a_task_runs_again_by_mistake_takes_no_tasks(
    at_server: Scripts, server: Server, method: str, pool: str
) -> None:
    """Without `if __name__ == "__main__":` each process that multiprocessing starts would be a worker."""
    server.put(b"one", b"two")
    run_there = {
        "multiprocessing": "child = context.Process(target=print); child.start(); child.join(); print(child.exitcode)",
        "concurrent.futures": "with ProcessPoolExecutor(1, mp_context=context) as pool: pool.submit(abs, -5).result()",
    }[pool]
    program = f"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
context = multiprocessing.get_context("{method}")
def work(task):
    {run_there}
listen(work, max_tasks=1)
"""
    run = start(at_server, program)
    run.process.wait(20)
    assert 'Put listen() under  if __name__ == "__main__":' in run.err
    assert len(server.sessions) == 1
    assert list(server.tasks) in ([(b"two", False)], [(b"one", True), (b"two", False)])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_worker_may_run_in_a_process_of_its_own(at_server: Scripts, server: Server, method: str) -> None:
    server.put(b"task")
    program = f"""
import multiprocessing
if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    child = context.Process(target=listen, args=[print], kwargs={{"max_tasks": 1}})
    child.start(); child.join()
    print("exit code", child.exitcode)
"""
    assert start(at_server, program).ends().lines[-1] == "exit code 0"
    assert len(server.got("Basic.Ack")) == 1
