"""What Ctrl+C, SIGTERM and SIGHUP mean to a program, and when they may interrupt it.

    state      how it is reached                             what the program does
    RUN        at the start                                  goes on
    FINISH     SIGTERM to a worker                           finishes the task in hand, and takes no more tasks
    INTERRUPT  Ctrl+C, SIGHUP, any signal after FINISH,      leaves at once: KeyboardInterrupt is raised in code
               SIGTERM to an emitter                         that may be interrupted

A worker's `stop` event has the effect of FINISH, and leaves the state as it is.

Python calls a signal's handler in the main thread, between two steps of whatever it does. What the handler raises,
appears there. So KeyboardInterrupt is raised inside `interruptible()` only. Inside `held()`, for example around calls
of pika, it is delayed until that block ends. Other code checks `has_begun`.
"""

from __future__ import annotations

import contextlib
import enum
import signal
import threading
import time
from collections.abc import Iterator

from task_queue.exceptions import Failure, WorkerError
from task_queue.process.signal_handlers import FINISHING_SIGNALS, SignalHandlers
from task_queue.terminal.blocked_output import drop_when
from task_queue.terminal.console import complain_of
from task_queue.windows import WINDOWS

SAME_SIGNAL_WITHIN = 0.2  # seconds in which the same signal counts once: a terminal and a supervisor may both send it


class State(enum.Enum):
    """See the table above."""

    RUN, FINISH, INTERRUPT = range(3)


class Shutdown:
    """Handles a program's signals inside `with`. On exit, the earlier handlers are restored.

    Outside the main thread no signals arrive: it stays in RUN.

    Args:
        is_worker: the first SIGTERM lets the program finish the task in hand. After a signal, the end of the `with`
            raises KeyboardInterrupt, or SystemExit(0) after SIGTERM, so that the calling program ends, too.
        stop: when another thread sets it, the program finishes, and the caller goes on.
    """

    def __init__(self, is_worker: bool = False, stop: threading.Event | None = None) -> None:
        self.stop = stop
        self.handlers = SignalHandlers(self._on_signal)
        self._is_worker = is_worker
        self._state = State.RUN
        # Only the main thread changes these three; the keeper reads them.
        self._may_interrupt = False
        self._is_pending = False  # a KeyboardInterrupt waits to be raised, inside interruptible() and outside held()
        self._held = 0
        self._last = (0, float("-inf"))  # the signal that counted last, and when it came

    def __enter__(self) -> Shutdown:
        self._outer, _this_thread.shutdown = _this_thread.shutdown, self
        drop_when(lambda: self.has_begun)  # also after the `with`: run() may still have something to say
        if threading.current_thread() is threading.main_thread():
            self.handlers.install()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.handlers.restore()
        _this_thread.shutdown = self._outer
        if self._outer is not None and self._state != State.RUN:  # a worker inside a task of another one: both end
            self._outer._state = self._state
        # Look at the state only after the restore: from then on, signals go to the earlier handlers. So none is missed.
        if self._is_worker and (error is None or isinstance(error, Failure)):
            if self._state != State.RUN and isinstance(error, WorkerError):
                complain_of(error)  # the caller never sees it, because we raise something else
            if self._state == State.INTERRUPT:
                raise KeyboardInterrupt from None
            if self._state == State.FINISH:
                raise SystemExit(0)

    @property
    def has_begun(self) -> bool:
        """Whether no more tasks may be taken, because of a signal or the `stop` event."""
        return self._state != State.RUN or (self.stop is not None and self.stop.is_set())

    @property
    def is_interrupt_due(self) -> bool:
        """Whether a KeyboardInterrupt is raised when the held() blocks have ended."""
        return self._is_pending and self._may_interrupt

    @property
    def has_interrupted(self) -> bool:
        """Whether a KeyboardInterrupt that was caught came from a signal, and was not raised by the task itself."""
        return self._state == State.INTERRUPT or self.handlers.is_replaced(signal.SIGINT)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl+C raise KeyboardInterrupt inside the block."""
        self._may_interrupt = True
        try:
            self._interrupt_if_due()
            yield
        finally:
            self._may_interrupt = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Delay Ctrl+C until the block has ended."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def hold(self) -> None:
        """Delay Ctrl+C until release()."""
        self._held += 1

    def release(self) -> None:
        """Undo hold(), and raise the KeyboardInterrupt that was delayed."""
        self._held -= 1
        if self._is_pending:
            self._interrupt_if_due()

    def ignore_further_signals(self) -> None:
        """Note that the program was interrupted, and ends now: no further signal interrupts it."""
        self._state = State.INTERRUPT
        self._is_pending = self._may_interrupt = False

    def send_again(self) -> None:
        """Send a signal again that came while the main thread forked: it could raise nothing there.

        Nothing was raised the first time, so it can't interrupt twice. Called by the keeper.
        """
        main = threading.main_thread().ident
        if self.is_interrupt_due and not self._held and not WINDOWS and main is not None:
            signal.pthread_kill(main, self._last[0])

    def _on_signal(self, number: int, may_raise: bool) -> None:
        last, came_at = self._last
        if number != last or time.monotonic() - came_at > SAME_SIGNAL_WITHIN:
            self._last = number, time.monotonic()
            finishes = self._is_worker and number in FINISHING_SIGNALS and self._state == State.RUN
            self._state = State.FINISH if finishes else State.INTERRUPT
            self._is_pending = not finishes
        if may_raise:
            self._interrupt_if_due()

    def _interrupt_if_due(self) -> None:
        if self.is_interrupt_due and not self._held:
            self._is_pending = False
            raise KeyboardInterrupt


class _ThisThread(threading.local):
    shutdown: Shutdown | None = None


_this_thread = _ThisThread()


def current() -> Shutdown:
    """Return the Shutdown of the program that runs in this thread; if there is none, a new one that never begins."""
    return _this_thread.shutdown or Shutdown()
