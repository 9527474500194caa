"""Handles Ctrl+C, SIGTERM and SIGHUP while a program works: what they mean, and when they may interrupt it.

    state      how it is reached                             what the program does
    RUN        at the start                                  goes on
    FINISH     SIGTERM to a worker                           finishes the task in hand, and takes no more tasks
    INTERRUPT  Ctrl+C, SIGHUP, any signal after FINISH,      leaves at once: KeyboardInterrupt is raised in code
               SIGTERM to an emitter                         that may be interrupted
    OUT        the program has noticed, and calls leave()    is on its way out; further signals change nothing

Ctrl+C may interrupt only code inside `interruptible()`. Inside `held()`, such as in a call of pika, it waits until that
block has ended. Other code checks `state` after each step.
"""

from __future__ import annotations

import contextlib
import enum
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from task_queue import terminal
from task_queue.aside import Aside
from task_queue.forked import around_forks, install
from task_queue.inherited import as_from_a_shell, check_children_can_be_waited_for
from task_queue.wakeup import getsignal, send_again, send_again_soon, write_there

# SIGBREAK is Windows' Ctrl+Break, the only signal that one process can send to another there.
FINISHING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name)]
ENDING_SIGNALS = [signal.SIGINT, *FINISHING_SIGNALS, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
ONE_BURST = 0.2  # seconds in which the same signal, or any signal after an interruption, is ignored

State = enum.Enum("State", "RUN FINISH INTERRUPT OUT")  # see the table above


class Signals:
    """Handles a program's signals inside `with`. At its end, the earlier handlers are put back.

    In other threads than the main one, where no signals arrive, it stays in RUN.

    Args:
        sigterm_finishes: the first SIGTERM lets the program finish the task in hand.
    """

    ended_at = float("-inf")  # on the monotonic clock: the last time that one ended in this process

    def __init__(self, sigterm_finishes: bool = False) -> None:
        self.state = State.RUN
        self._sigterm_finishes = sigterm_finishes
        self._may_interrupt = False
        self._is_due = False  # a KeyboardInterrupt is to be raised
        self._changed_at = float("-inf")  # when SIGTERM came, or KeyboardInterrupt was raised
        self._held = 0
        self.unheard = 0  # the number of a signal that has reached a bell, but not yet the main thread
        self._bells: list[socket.socket] = []  # a byte written there wakes a thread that waits
        self._found: dict[int, Any] = {}  # the handlers that were there before
        self._found_wakeup = -1
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Signals:
        self._undo.callback(setattr, _of_this_thread, "signals", in_force())
        _of_this_thread.signals = self
        if threading.current_thread() is threading.main_thread():
            terminal.wait_for_ever()
            for number in ENDING_SIGNALS:
                # Ignored signals stay ignored (nohup), and a handler that Python can't put back is left alone.
                if (found := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    self._found[number] = found
                    self._undo.callback(signal.signal, number, found)
                    install(number, self._on_signal)
            self._undo.enter_context(as_from_a_shell())
            self._undo.callback(around_forks, *around_forks(self.hold, self._release_soon))
        else:
            check_children_can_be_waited_for()
        return self

    def __exit__(self, *_: object) -> None:
        Signals.ended_at = time.monotonic()
        self._undo.close()

    @property
    def interrupts(self) -> bool:
        """Whether KeyboardInterrupt is due, and allowed in the code that runs, even if held() still delays it."""
        return self._is_due and self._may_interrupt

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
        self._interrupt_if_due()

    def _release_soon(self) -> None:
        self._held -= 1
        if self.interrupts and not self._held:
            send_again_soon(signal.SIGINT, self._on_signal)

    def leave(self) -> None:
        """Note that the program is on its way out."""
        self.state = State.OUT
        self._is_due = self._may_interrupt = False

    def finish_when(self, stop: threading.Event) -> None:
        """When this event is set, finish as after the first SIGTERM to a worker."""

        def wait() -> None:
            stop.wait()
            if self.state == State.RUN:
                self.state = State.FINISH
                terminal.give_up_soon()
            self._ring()

        Aside(wait, "stop").start()

    def ring(self, bell: socket.socket) -> None:
        """From now on, write each signal's number into a socket, and a 0 when the signal has been handled."""
        self._bells.append(bell)
        if len(self._bells) == 1 and self._found:
            self._found_wakeup = write_there(bell.fileno())

    def ring_no_more(self, bell: socket.socket) -> None:
        """Undo ring()."""
        self._bells.remove(bell)
        if self._found:
            write_there(self._bells[0].fileno() if self._bells else self._found_wakeup)

    def send_again(self) -> None:
        """Send the signal again that the main thread has not handled, if there is one."""
        if self.unheard in self._found:
            send_again(self.unheard, self._on_signal)

    def take_back(self) -> None:
        """Put our handlers back after a task that has replaced them, as asyncio does."""
        for number in self._found:
            if getsignal(number) != self._on_signal:
                install(number, self._on_signal)
        if self._found and self._bells:
            write_there(self._bells[0].fileno())

    def _on_signal(self, number: int, _frame: object) -> None:
        self._change_state(number)
        self._ring()  # Python's own byte came too early, before the state had changed
        terminal.give_up_soon()
        self._interrupt_if_due()
        terminal.unblock()

    def _ring(self) -> None:
        for bell in [*self._bells]:
            with contextlib.suppress(OSError):  # it rings already, or is closed
                bell.send(b"\0")

    def _change_state(self, number: int) -> None:
        is_same_burst = time.monotonic() - self._changed_at < ONE_BURST
        if self.state == State.OUT or (is_same_burst and number in FINISHING_SIGNALS and self.state == State.FINISH):
            return
        finishes = self._sigterm_finishes and number in FINISHING_SIGNALS and self.state == State.RUN
        if finishes:
            self._changed_at = time.monotonic()
        self._is_due = not finishes and not (self.state == State.INTERRUPT and is_same_burst)
        self.state = State.FINISH if finishes else State.INTERRUPT

    def _interrupt_if_due(self) -> None:
        if self.interrupts and not self._held:
            self._is_due = False
            self._changed_at = time.monotonic()
            raise KeyboardInterrupt


_of_this_thread = threading.local()


def in_force() -> Signals:
    """Return the Signals of the program that runs in this thread, or a dummy that never gets any."""
    return getattr(_of_this_thread, "signals", None) or Signals()
