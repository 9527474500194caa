"""Prints in the background for pika's callbacks and for the keeper: heartbeats depend on them, so they never wait."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable

from task_queue import terminal
from task_queue.aside import Aside

MOST_WAITING = 100  # lines for a blocked terminal; more are dropped

_actions: queue.Queue[Callable[[], object]] = queue.Queue(MOST_WAITING)


def complain(text: str) -> None:
    """Have the background thread print a line on standard error."""
    do(lambda: terminal.complain(text))


def do(action: Callable[[], object]) -> None:
    """Have the background thread call a function: once, even if it is given again before that."""
    with contextlib.suppress(queue.Full, RuntimeError):  # no thread can be started: the next call tries again
        if action not in _actions.queue:
            _actions.put_nowait(action)
        if not _printer.is_alive():
            _printer.start()


def flush() -> None:
    """Wait until everything is printed, but only a moment if the terminal is blocked."""
    with _actions.all_tasks_done:
        _actions.all_tasks_done.wait_for(lambda: not _actions.unfinished_tasks, terminal.PATIENCE)


def _work() -> None:
    while True:
        action = _actions.get()
        with contextlib.suppress(Exception):  # from an object that a task has put in place of standard error
            action()
        _actions.task_done()


_printer = Aside(_work, "printer")  # started when there is something to print
