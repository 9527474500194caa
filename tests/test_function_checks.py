"""What a function may do and return, and why a task failed: work that is only begun is never taken for done."""

import asyncio
import contextlib
import functools
import re
from typing import Any

import pytest
from harness import Scripts
from in_process import put, work
from scripted_server import Server

from task_queue.worker.task import Task

NEVER_DONE = {
    "coroutine": "async def work(task): pass",
    "generator": "def work(task): yield",
    "async generator": "async def work(task): yield",
    "partial of an object": "class C:\n    def __call__(self, x, task): yield\nwork = functools.partial(C(), 1)",
    "no function": "work = 'work'",
}


def made_by(code: str) -> Any:
    """Return the function `work` that this code defines."""
    names: dict[str, Any] = {"asyncio": asyncio, "functools": functools}
    exec(code, names)  # noqa: S102
    return names["work"]


@pytest.mark.parametrize("code", NEVER_DONE.values(), ids=NEVER_DONE)
def test_a_function_that_only_begins_its_work_is_refused_before_a_task_is_taken(
    at_server: Scripts, server: Server, code: str
) -> None:
    with pytest.raises(TypeError, match=r"would only be begun, not done|needs a function, and 'work' is none"):
        work(at_server, made_by(code))
    assert server.sessions == []


RESULTS = {
    "coroutine": "async def f(): pass\nwork = lambda task: f()",
    "wrapped coroutine": "async def f(task): pass\n@functools.wraps(f)\ndef work(task):\n    return f(task)",
    "generator": "def f(): yield\nwork = lambda task: f()",
    "future": "import concurrent.futures\nwork = lambda task: concurrent.futures.Future()",
    "awaitable": "class A:\n    def __await__(self): yield\nwork = lambda task: A()",
}


@pytest.mark.parametrize("code", RESULTS.values(), ids=RESULTS)
def test_a_result_that_nobody_awaits_ends_the_worker_and_the_task_failed_once(
    at_server: Scripts, server: Server, code: str
) -> None:
    server.put(b"task", b"another")
    with pytest.raises(TypeError, match="The work was only begun, not done"):
        work(at_server, made_by(code), max_tasks=2)
    assert len(server.got("Basic.Reject")) == 1
    assert server.got("Basic.Ack") == server.got("Basic.Nack") == []
    assert list(server.tasks) == [(b"task", True), (b"another", False)]
    assert [record["event"] for record in at_server.events()] == ["received", "failed"]


def test_a_task_that_raises_keyboard_interrupt_itself_has_failed(at_server: Scripts, server: Server) -> None:
    """Handed back uncounted, it would end every worker in turn."""

    def perform(task: Any) -> None:
        if not task.redelivered:
            raise KeyboardInterrupt

    server.put(b"task")
    with contextlib.suppress(KeyboardInterrupt):  # which would end pytest
        work(at_server, perform)
    assert [record["event"] for record in at_server.events()] == ["received", "failed", "received", "done"]
    assert len(server.got("Basic.Reject")) == 1
    assert server.got("Basic.Nack") == []


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


RAISED = {"bad": [ValueError("no good")] * 2, "ugly": [SystemExit(3), asyncio.CancelledError(), Mute()]}


def test_ten_lines_of_python_are_a_worker(scripts: Scripts) -> None:
    got: list[object] = []

    def perform(task: Task) -> None:
        got.append((task.body, task.text, task.redelivered, task.delivery_count, bool(task.message_id)))
        if errors := RAISED.get(task.text, [])[task.delivery_count :]:
            raise errors[0]

    put(scripts, "Größe".encode(), b"bad", b"ugly")
    lines = work(scripts, perform, max_tasks=9, name="mine")
    whys = ["ValueError: no good", "ValueError: no good", "SystemExit: 3", "CancelledError: "]
    for number, why in zip((1, 2, 1, 2, 3), [*whys, "Mute: and why can't be said"]):
        failed = rf" \[!\] Failed \(try {number} of at most 21\): {why} \(test_function_checks.py, line \d+\)"
        assert [line for line in lines if re.match(failed, line)], failed
    assert (b"bad", "bad", True, 2, True) in got
    assert " [x] Received Größe" in lines
    assert lines.count(" [x] Done.") == 3
    assert {event["name"] for event in scripts.events()} == {"mine"}
