"""Background threads: the process does not wait for them when it ends, and they get none of its signals."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from task_queue.system import WINDOWS


class Aside(threading.Thread):
    """A daemon thread that blocks all signals.

    The system delivers a signal to any thread that does not block it. If that is not the main thread, Python only notes
    it: the main thread's read or sleep goes on, and Ctrl+C has no effect until that is over.
    Source: https://docs.python.org/3/library/signal.html#signals-and-threads

    Args:
        target: called in the thread.
    """

    def __init__(self, target: Callable[[], object], name: str = "aside") -> None:
        super().__init__(target=target, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. It inherits the starting thread's signal mask, so it blocks signals at once.

        Raises:
            RuntimeError: no thread can be started.
        """
        with contextlib.ExitStack() as undo:
            if not WINDOWS:
                # The mask is read before it is changed, because either call may raise KeyboardInterrupt.
                undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, []))
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            super().start()


def call_aside(function: Callable[[], Any], seconds: float | None = None) -> Any:
    """Return what the function returns, or raise what it raises. Threads that it starts are daemons, too.

    Args:
        function: called in another thread.
        seconds: how long to wait for it; None for ever.

    Raises:
        concurrent.futures.TimeoutError: it takes longer.
    """
    outcome: Future[Any] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except Exception as error:
            outcome.set_exception(error)

    Aside(call).start()
    return outcome.result(seconds)
