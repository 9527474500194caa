"""Driving pika's I/O loop: the main thread does it while it waits for RabbitMQ; while it is busy, a keeper thread does.

Only the thread that holds the lock may call pika. `main` is the thread that made the Loop.

    main              lock    main's Place     keeper
    waits             main    DRIVES           sleeps until main leaves
    is busy (short)   free    ELSEWHERE        waits 20 ms for main to come back, so it does not drive in short tasks
    is busy (long)    keeper  ELSEWHERE        drives, step by step: heartbeats, confirms, reconnecting
    comes back        keeper  KNOCKS           the bell ends its step, and it lets main in
    closes            main    closing is set   ends

An exception from a step means that the connection is lost. The I/O loop may be broken then, so pika gets a new one.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
import time
from collections.abc import Callable

from pika.adapters.select_connection import IOLoop

from task_queue import signals
from task_queue.aside import Aside

KEEPER_DELAY = 0.02  # seconds
HEARD_WITHIN = 0.05  # seconds; a signal that the main thread has not handled by then is sent again
LOOK_EVERY = 0.2  # seconds between two tries to make an I/O loop


class Place(enum.Enum):
    """Where main is, as far as the keeper needs to know."""

    ELSEWHERE = enum.auto()
    KNOCKS = enum.auto()
    DRIVES = enum.auto()


class Loop:
    """pika's I/O loop, shared by the thread that made it and a keeper. Call pika only inside `with loop:`.

    Args:
        before_step: called before each step, with the lock.
        on_error: called with the exception that a step raised, with the lock. It returns a function to call when there
            is a new I/O loop.
        after_keeping: called by the keeper, without the lock, after each step it drove.

    Attributes:
        ioloop: pika's; a new one after an error.
        signals: the program's; a signal ends a step early.
        closing: set when closing begins.
    """

    def __init__(
        self,
        before_step: Callable[[], None],
        on_error: Callable[[Exception], Callable[[], None]],
        after_keeping: Callable[[], None],
    ) -> None:
        self._before_step, self._on_error, self._after_keeping = before_step, on_error, after_keeping
        self._bell = socket.socketpair()  # a byte from the second to the first ends the step, in any thread
        for end in self._bell:
            end.setblocking(False)
            if end.family == socket.AF_INET:  # on Windows it goes over TCP, which would gather such small pieces
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.ioloop = self._new_ioloop()
        except OSError:
            self._close_bell()
            raise
        self._lock = threading.Lock()
        self.keeper = Aside(self._keep, "keeper")
        self._main_left = threading.Event()  # set: main has left pika since the keeper fell asleep
        self._main = Place.ELSEWHERE
        self._steps = 0
        self.closing = threading.Event()
        self.signals = signals.in_force()
        self.signals.ring(self._bell[1])

    def __enter__(self) -> Loop:
        self.signals.hold()
        if not self._lock.acquire(blocking=False):
            self._main = Place.KNOCKS
            with contextlib.suppress(BlockingIOError):  # it rings already
                self._bell[1].send(b"\0")
            self._lock.acquire()
            self._main = Place.ELSEWHERE
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if not self._main_left.is_set():
            self._main_left.set()
        self.signals.release()  # last, because it may raise; the keeper already knows

    def wait(self, until: Callable[[], object], seconds: float = float("inf")) -> None:
        """Drive the loop until `until()` is true after a step, or the time is up. Only inside `with loop`."""
        deadline = time.monotonic() + seconds
        ioloop = self.ioloop
        alarm = ioloop.call_later(max(0.0, seconds), lambda: None) if seconds != float("inf") else None
        self._main = Place.DRIVES
        try:
            while not until() and time.monotonic() < deadline:
                self.step()
        finally:
            self._main = Place.ELSEWHERE
            if alarm is not None and ioloop is self.ioloop:
                ioloop.remove_timeout(alarm)

    def step(self) -> None:
        """Run the loop once: send what is buffered, wait for input or a signal, run callbacks. Only inside `with`."""
        self._steps += 1
        try:
            self._before_step()
            self.ioloop.poll()
            self.ioloop.process_timeouts()
        except Exception as error:
            go_on = self._on_error(error)
            with contextlib.suppress(Exception):
                self.ioloop.close()
            if self._renew_ioloop():
                go_on()

    def close(self) -> None:
        """End the keeper, and close everything."""
        self.closing.set()
        if self.keeper.is_alive():
            self._main_left.set()
            self.keeper.join()
        self.signals.ring_no_more(self._bell[1])
        with contextlib.suppress(Exception):  # it had no file descriptor
            self.ioloop.close()
        self._close_bell()

    def _new_ioloop(self) -> IOLoop:
        ioloop = IOLoop()
        try:
            ioloop.activate_poller()
            ioloop.add_handler(self._bell[0].fileno(), self._silence_bell, IOLoop.READ)
        except OSError:
            ioloop.close()
            raise
        return ioloop

    def _renew_ioloop(self) -> bool:
        while True:
            with contextlib.suppress(OSError):
                self.ioloop = self._new_ioloop()
                return True
            # No file descriptor is left. Try again, as others may close theirs.
            if self.closing.is_set() or self.signals.state != signals.State.RUN:
                return False
            time.sleep(LOOK_EVERY)

    def _close_bell(self) -> None:
        for end in self._bell:
            with contextlib.suppress(OSError):  # a task has closed it
                end.close()

    def _silence_bell(self, *_: object) -> None:
        self.signals.unheard = self._bell[0].recv(4096)[-1]
        if self.signals.unheard:
            self.ioloop.call_later(HEARD_WITHIN, self.signals.send_again)

    def _keep(self) -> None:
        while not self.closing.is_set():
            self._main_left.wait()
            steps = self._steps
            self.closing.wait(KEEPER_DELAY)
            if self._main is Place.DRIVES:
                self._main_left.clear()
                if self._main is not Place.DRIVES:  # it left between these two lines
                    self._main_left.set()
            elif self._steps == steps:  # nobody drove the loop in that time
                # After any error, try again: without a keeper no heartbeat goes out.
                with contextlib.suppress(Exception):
                    self._drive_until_main_is_back()

    def _drive_until_main_is_back(self) -> None:
        # Never waits for the lock: when main has it, main is back.
        while not self.closing.is_set() and self._lock.acquire(blocking=False):
            try:
                if self._main is Place.KNOCKS:
                    return
                self.step()
            finally:
                self._lock.release()
            self._after_keeping()
