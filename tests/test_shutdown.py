"""What signals do to a worker, however things stand, and whatever it was started with."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from harness import Scripts, eventually, feed, start_own
from in_process import work
from relay import Relay
from scripted_server import Server

from task_queue import WorkerError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SEVERAL = [signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT]  # of somebody impatient
STOPPED = " [*] Stopped."


@contextlib.contextmanager
def bequeathed(ignored: Iterable[int] = (), blocked: Iterable[int] = ()) -> Iterator[None]:
    """Have what is started meanwhile inherit signals ignored, as from nohup or a shell's `&`, or blocked."""
    with contextlib.ExitStack() as undo:
        undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, blocked))
        for number in ignored:
            undo.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        yield


@pytest.mark.parametrize("blocked", [[], range(1, 32)], ids=["", "blocked at the start"])
@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP] * 2, SEVERAL], ids=str)
def test_a_signal_ends_an_idle_worker_at_once(
    at_server: Scripts, server: Server, numbers: list[signal.Signals], blocked: list[int]
) -> None:
    """When a terminal is closed, the system and the shell send SIGHUP each."""
    with bequeathed(blocked=blocked):
        worker = at_server.start("listening_worker.py")
    server.gets("Basic.Consume")
    for number in numbers:
        worker.send(number)
    worker.ends(within=4)  # pika's loop looks up every five seconds by itself
    assert worker.lines.count(STOPPED) == 1
    assert worker.err == ""


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
    assert worker.lines[-1] == STOPPED
    if busy_with == "a task":
        relay.cut()
        eventually(lambda: scripts.broker.bodies(scripts.queue) == ["task.."], "it is not lost")


@pytest.mark.parametrize(
    ("then", "raised", "event"),
    [
        ([signal.SIGTERM], SystemExit, "done"),  # a supervisor may forward the one that its children have got already
        ([0.3, signal.SIGTERM], KeyboardInterrupt, "requeued"),
        ([signal.SIGINT], KeyboardInterrupt, "requeued"),
        ([WorkerError()], SystemExit, "requeued"),  # else a program that listens again after errors would never end
    ],
    ids=["the same at once is one", "the same later forces", "ctrl_c_right_after", "though_its_call_fails"],
)
def test_after_sigterm_in_a_task(
    at_server: Scripts, server: Server, then: list[Any], raised: type[BaseException], event: str
) -> None:
    def perform(_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for each in then:
            if isinstance(each, Exception):
                raise each
            time.sleep(each) if isinstance(each, float) else os.kill(os.getpid(), each)

    server.put(b"task", b"another")
    with pytest.raises(raised) as end:
        work(at_server, perform)
    assert raised is KeyboardInterrupt or end.value.code == 0
    assert [record["event"] for record in at_server.events()] == ["received", event]
    assert list(server.tasks) == [(b"task", True)] * (event == "requeued") + [(b"another", False)]


def test_ctrl_c_ends_both_workers_if_one_runs_in_a_task_of_the_other(at_server: Scripts, server: Server) -> None:
    server.put(b"outer", b"inner", b"not begun")
    with pytest.raises(KeyboardInterrupt):
        work(at_server, lambda _: work(at_server, lambda _: signal.raise_signal(signal.SIGINT)), max_tasks=1)
    assert [record["event"] for record in at_server.events()] == ["received"] * 2 + ["requeued"] * 2


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(scripts: Scripts) -> None:
    command = "sh -c 'for name in INT TERM HUP; do kill -$name $$; done; echo the command goes on'"
    with bequeathed(ignored=ENDING):
        emitter = scripts.emitter("--verbose", stdin=subprocess.PIPE)
        worker = scripts.worker("--max-tasks", 2, "--run", command)
    feed(emitter, b"one\n")
    worker.shows("the command goes on")
    for number in ENDING:
        emitter.send(number)
        worker.send(number)
    feed(emitter, b"two\n", is_last=True)
    emitter.ends()
    assert worker.ends().lines.count(" [x] Done.") == 2


def test_a_command_that_fails_is_no_success_where_nobody_can_wait_for_children(
    at_server: Scripts, server: Server
) -> None:
    server.put(b"task")
    with bequeathed(ignored=[signal.SIGCHLD]):
        run = at_server.start("listening_worker.py", "--max-tasks", 1, "--run", "false")
    assert " [!] Failed (try 1 of at most 21): false ended with exit status 1" in run.ends().out
    assert server.got("Basic.Ack") == []


ASYNCIO = """
import asyncio

async def tidy_up_on_sigterm():
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, print)
        loop.remove_signal_handler(number)

def perform(task):
    if task.text == "asyncio":
        asyncio.run(tidy_up_on_sigterm())
    else:
        print("began", flush=True)
        time.sleep(float(task.text))

run(lambda: listen(perform, log_file="events.jsonl"))
"""


@pytest.mark.parametrize(
    ("number", "meanwhile", "ends"),
    [(signal.SIGTERM, b"0.5", ["done"]), (signal.SIGINT, b"60", ["requeued"]), (signal.SIGTERM, None, [])],
    ids=["SIGTERM in a task", "Ctrl+C in a task", "SIGTERM to one that waits"],
)
def test_signals_are_taken_back_from_a_task_that_has_kept_them(
    at_server: Scripts, server: Server, number: signal.Signals, meanwhile: bytes | None, ends: list[str]
) -> None:
    server.put(b"asyncio", *([meanwhile] if meanwhile else []))
    worker = start_own(at_server, ASYNCIO)
    worker.shows("began" if meanwhile else "Done.")
    worker.send(number)
    worker.ends(0 if number == signal.SIGTERM else 130, within=4)  # pika's loop looks up every five seconds by itself
    settled = [record["event"] for record in at_server.events() if record["event"] != "received"]
    assert settled == ["done", *ends]
