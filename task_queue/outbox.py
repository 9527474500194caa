"""Prints for pika's callbacks and for the keeper, in its own thread, which may wait for a blocked terminal.

Heartbeats depend on the thread that drives pika's loop, so it never writes to the terminal or the log itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from task_queue import terminal
from task_queue.aside import Aside

MOST_WAITING = 100  # lines for a blocked terminal; after that, the oldest is dropped

_waiting: deque[Callable[[], None]] = deque(maxlen=MOST_WAITING)
_changed = threading.Condition()
_is_busy = False


def complain(text: str) -> None:
    """Have a line printed on standard error."""
    do(lambda: terminal.complain(text))


def do(action: Callable[[], None]) -> None:
    """Have the outbox's thread call a function soon: once, even if it is given several times before that."""
    global _is_busy
    with _changed, contextlib.suppress(RuntimeError):  # no thread can be started: the next call tries again
        if action not in _waiting:
            _waiting.append(action)
        if not _is_busy:
            Aside(_work, "outbox").start()
            _is_busy = True


def flush() -> None:
    """Wait until everything is printed, but only a moment if the terminal is blocked."""
    with _changed:
        _changed.wait_for(lambda: not _is_busy, 2 * terminal.OUTPUT_PATIENCE)


def _work() -> None:
    global _is_busy
    while True:
        with _changed:
            if not _waiting:
                _is_busy = False
                _changed.notify_all()
                return
            action = _waiting.popleft()
        with contextlib.suppress(Exception):  # from an object that a task has put in place of standard error
            action()
