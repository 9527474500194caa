"""The threads beside the main one. A process ends without waiting for them, and they get none of its signals."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Aside(threading.Thread):
    """A daemon thread to which the system gives no signal.

    It may give one to any thread that does not block it. A thread other than the main one would only note it: the read
    or the sleep of the main thread would go on, and Ctrl+C be heard when that is over.
    Source: https://docs.python.org/3/library/signal.html#signals-and-threads

    Args:
        target: is called in the thread.
    """

    def __init__(self, target: Callable[[], object], name: str = "aside") -> None:
        super().__init__(target=target, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. It inherits the mask of whoever starts it, so there is no moment without.

        Raises:
            RuntimeError: there are no more threads.
        """
        with contextlib.ExitStack() as undo:
            if hasattr(signal, "pthread_sigmask"):  # not on Windows
                # The mask is read before it is changed, because Ctrl+C may come out of either call.
                undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, []))
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            super().start()


def call_aside(function: Callable[[], Any], seconds: float | None = None) -> Any:
    """Return what the function returns, or raise what it raises. The threads that it starts are daemons, too.

    Args:
        function: is called in another thread.
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
