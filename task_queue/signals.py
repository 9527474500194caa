"""The owner of Ctrl+C, SIGTERM and SIGHUP while a program works: what they mean, and when they may interrupt it.

    state      how it is reached                             what the program does
    RUN        at the start                                  goes on
    FINISH     SIGTERM to a worker                           finishes what it has in hand, and takes nothing more
    INTERRUPT  Ctrl+C, SIGHUP, any signal after FINISH,      leaves at once: KeyboardInterrupt comes out of the code
               SIGTERM to an emitter                         that may be interrupted
    OUT        the program has noticed, and calls leave()    is on its way out; further signals change nothing

Ctrl+C may interrupt only the code within `interruptible()`, and there not what is `held()`, such as a call of pika: it
comes as soon as that is over. Other code looks at `state` when it is done with a step.
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
from task_queue.forked import install
from task_queue.inherited import as_from_a_shell, check_children_can_be_waited_for
from task_queue.wakeup import getsignal, send_again, write_there

ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
ONE_BURST = 0.2  # seconds in which the same signal, or another after an interruption, counts as the one before

State = enum.Enum("State", "RUN FINISH INTERRUPT OUT")  # see the table above


class Signals:
    """The signals of a program, from `with` to its end, when the handlers that were there before are put back.

    In a thread other than the main one, where no signals arrive, it stays in RUN.

    Args:
        sigterm_finishes: the first SIGTERM lets the program finish what it has in hand.
    """

    has_ended = False  # in this process, at least once

    def __init__(self, sigterm_finishes: bool = False) -> None:
        self.state = State.RUN
        self._sigterm_finishes = sigterm_finishes
        self._may_interrupt = False
        self._is_due = False  # a KeyboardInterrupt is to be raised
        self._changed_at = float("-inf")  # by SIGTERM, or when KeyboardInterrupt was raised
        self._held = 0
        self.unheard = 0  # the number of a signal that Python has told of, and the main thread has not dealt with
        self._bells: list[socket.socket] = []  # a byte written there wakes who waits
        self._found: dict[int, Any] = {}  # the handlers that were there before
        self._found_wakeup = -1
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Signals:
        self._undo.callback(setattr, _of_this_thread, "signals", in_force())
        _of_this_thread.signals = self
        if threading.current_thread() is threading.main_thread():
            terminal.wait_for_ever()
            for number in ENDING_SIGNALS:
                # What is ignored stays so (nohup), and what Python can't put back is left alone.
                if (found := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    self._found[number] = found
                    self._undo.callback(signal.signal, number, found)
                    install(number, self._on_signal)
            self._undo.enter_context(as_from_a_shell())
        else:
            check_children_can_be_waited_for()
        return self

    def __exit__(self, *_: object) -> None:
        Signals.has_ended = True
        self._undo.close()

    @property
    def interrupts(self) -> bool:
        """Whether KeyboardInterrupt is due, and allowed in the code that runs, though perhaps still held."""
        return self._is_due and self._may_interrupt

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl+C raise KeyboardInterrupt within the block."""
        self._may_interrupt = True
        try:
            self._interrupt_if_due()
            yield
        finally:
            self._may_interrupt = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let Ctrl+C wait until the block is over."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def hold(self) -> None:
        """Let Ctrl+C wait until release()."""
        self._held += 1

    def release(self) -> None:
        """End what hold() began, and raise the KeyboardInterrupt that has waited."""
        self._held -= 1
        self._interrupt_if_due()

    def leave(self) -> None:
        """Tell that the program is on its way out."""
        self.state = State.OUT
        self._is_due = self._may_interrupt = False

    def finish_when(self, stop: threading.Event) -> None:
        """Act on an event, once it is set, as on the first SIGTERM of a program that finishes then."""

        def wait() -> None:
            stop.wait()
            if self.state == State.RUN:
                self.state = State.FINISH
                terminal.give_up_soon()
            self._ring()

        Aside(wait, "stop").start()

    def ring(self, bell: socket.socket) -> None:
        """Write its number into a socket at each signal, from now on, and a 0 when it has been dealt with."""
        self._bells.append(bell)
        if len(self._bells) == 1 and self._found:
            self._found_wakeup = write_there(bell.fileno())

    def ring_no_more(self, bell: socket.socket) -> None:
        """End what ring() began."""
        self._bells.remove(bell)
        if self._found:
            write_there(self._bells[0].fileno() if self._bells else self._found_wakeup)

    def send_again(self) -> None:
        """Have the main thread deal with a signal that it has not dealt with, if there is one."""
        if self.unheard in self._found:
            send_again(self.unheard, self._on_signal)

    def take_back(self) -> None:
        """Take the signals back from a task that has kept them, as asyncio does."""
        for number in self._found:
            if getsignal(number) != self._on_signal:
                install(number, self._on_signal)
        if self._found and self._bells:
            write_there(self._bells[0].fileno())

    def _on_signal(self, number: int, _frame: object) -> None:
        self._change_state(number)
        self._ring()  # after the wake-up by Python, which came before there was news
        terminal.give_up_soon()
        self._interrupt_if_due()
        terminal.unblock()

    def _ring(self) -> None:
        for bell in [*self._bells]:
            with contextlib.suppress(OSError):  # it rings already, or is closed
                bell.send(b"\0")

    def _change_state(self, number: int) -> None:
        is_same_burst = time.monotonic() - self._changed_at < ONE_BURST
        if self.state == State.OUT or (is_same_burst and number == signal.SIGTERM and self.state == State.FINISH):
            return
        finishes = self._sigterm_finishes and number == signal.SIGTERM and self.state == State.RUN
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
