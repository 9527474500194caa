"""What a function may do and return, and why a task failed: work that is only begun is never taken for done."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Any

import pytest
from harness import Scripts, start_own
from in_process import put, work, working
from scripted_server import Server

NEVER_DONE = {
    "coroutine": "async def work(task): pass",
    "generator": "def work(task): yield",
    "async generator": "async def work(task): yield",
    "partial": "async def f(x, task): pass\nwork = functools.partial(f, 1)",
    "object": "class C:\n    async def __call__(self, task): pass\nwork = C()",
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


DONE = {
    "no truth": "class NoBool:\n    def __bool__(self): raise ValueError\nwork = lambda task: NoBool()",
    "iterator": "work = lambda task: map(print, [])",
    "awaited": "async def f(task): pass\n@functools.wraps(f)\ndef work(task):\n    asyncio.run(f(task))",
}


@pytest.mark.parametrize("code", DONE.values(), ids=DONE)
def test_what_else_a_function_returns_does_not_matter(at_server: Scripts, server: Server, code: str) -> None:
    server.put(b"task")
    assert " [x] Done." in work(at_server, made_by(code), max_tasks=1)


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
        with contextlib.suppress(KeyboardInterrupt):  # which would end pytest
            work(at_server, perform)
    else:
        with working(at_server, perform):
            server.gets("Basic.Ack")
    assert [record["event"] for record in at_server.events()] == ["received", "failed", "received", "done"]
    assert len(server.got("Basic.Reject")) == 1
    assert server.got("Basic.Nack") == []


RAISES_ANYTHING = """
import asyncio

class Mute(Exception):
    def __str__(self):
        raise ValueError

raised = {"bad": [ValueError("no good")] * 2, "ugly": [SystemExit(3), asyncio.CancelledError(), Mute()]}

def perform(task):
    print(type(task.body).__name__, task.text, task.redelivered, task.delivery_count, bool(task.message_id))
    if errors := raised.get(task.text, [])[task.delivery_count :]:
        raise errors[0]

listen(perform, burst=True, name="mine", log_file="events.jsonl", max_tasks=9)
"""


def test_ten_lines_of_python_are_a_worker(scripts: Scripts) -> None:
    """Also at a terminal that knows only ASCII."""
    put(scripts, "Größe".encode(), b"bad", b"ugly")
    run = start_own(scripts, RAISES_ANYTHING, env={"PYTHONIOENCODING": "ascii"}).ends()
    reasons = [
        "ValueError: no good",
        "ValueError: no good",
        "SystemExit: 3",
        "CancelledError: ",
        "Mute: and why can't be said",
    ]
    for number, reason in zip((1, 2, 1, 2, 3), reasons):
        assert f" [!] Failed (try {number} of at most 21): {reason} (work.py, line 15)" in run.out
    assert "bytes bad True 2 True" in run.lines
    assert r" [x] Received Gr\xf6\xdfe" in run.lines
    assert run.out.count("Done.") == 3
    assert {event["name"] for event in scripts.events()} == {"mine"}
