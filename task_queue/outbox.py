"""Prints for pika's callbacks and for the keeper, in a thread of its own that may wait for a terminal.

Heartbeats depend on whoever drives pika's loop, so they never write to the terminal or the log themselves.
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
    """Have something done by the outbox's thread, soon; once, though it is given several times before."""
    global _is_busy
    with _changed, contextlib.suppress(RuntimeError):  # no more threads: at the next time, then
        if action not in _waiting:
            _waiting.append(action)
        if not _is_busy:
            Aside(_work, "outbox").start()
            _is_busy = True


def flush() -> None:
    """Wait until everything is said, but for a blocked terminal only a moment."""
    with _changed:
        _changed.wait_for(lambda: not _is_busy, 2 * terminal.PATIENCE)


def _work() -> None:
    global _is_busy
    while True:
        with _changed:
            if not _waiting:
                _is_busy = False
                _changed.notify_all()
                return
            action = _waiting.popleft()
        with contextlib.suppress(Exception):  # of what somebody has put in place of standard error
            action()
