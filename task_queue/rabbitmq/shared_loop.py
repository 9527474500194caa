"""Driving pika's I/O loop, so that heartbeats go out, and what comes in is read.

pika does this only while somebody runs its loop. While the main thread waits for RabbitMQ, it runs the loop itself.
While the main thread is busy, with a task say, the keeper thread runs the loop.

Only the thread that holds the lock may call pika. While the main thread waits for RabbitMQ, it holds the lock, and the
keeper waits for the lock. When the main thread has not driven for 20 ms, the keeper drives, step by step: not sooner,
because each change of the driver costs time. When the main thread wants the lock back, a bell (a byte in a socket) ends
the keeper's step.

Only the main thread enters `with loop`. pika's callbacks, in whichever thread, run with the lock already. Why is there
not one thread that always drives? Each publish and each ack would wait for a change of threads, which made a worker 10
to 20 % slower.

An exception from a step means that the connection is lost. The I/O loop may be broken then, so pika gets a new one. The
timers of the old one are gone: those of the connection are not needed any more, and a drive() that waits may end some
seconds late. If the exception is a mistake in our own callbacks, its traceback is in Python's logging, at level INFO.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from pika.adapters.select_connection import IOLoop

from task_queue.process.shutdown import Shutdown
from task_queue.signal_free_thread import SignalFreeThread

KEEPER_DELAY = 0.02  # seconds until the keeper drives, if the main thread does not
STOP_SEEN_WITHIN = 0.1  # seconds between two checks of listen()'s `stop`


class Loop:
    """pika's I/O loop, shared by the thread that made it, here called main, and a keeper.

    Args:
        shutdown: of the program; a signal ends a step early.
        before_step: called before each step, with the lock.
        on_error: called with the exception that a step raised, with the lock. It drops the connection, which is on the
            old I/O loop, and reconnects on the new one.
        after_keeping: called by the keeper, without the lock, after each step it drove.

    Raises:
        OSError: no descriptor is left.

    Attributes:
        main: the thread that made it.
        keeper: its owner starts it, when it is ready for before_step().
        ioloop: pika's; a new one after an error.
        closing: the owner sets it before close().
    """

    def __init__(
        self,
        shutdown: Shutdown,
        before_step: Callable[[], None],
        on_error: Callable[[Exception], None],
        after_keeping: Callable[[], None],
    ) -> None:
        self._before_step, self._on_error, self._after_keeping = before_step, on_error, after_keeping
        self.main = threading.current_thread()
        self.shutdown = shutdown
        self._bell = socket.socketpair()  # a byte wakes the poll, in whichever thread
        for end in self._bell:
            end.setblocking(False)
            if end.family == socket.AF_INET:  # on Windows this is TCP, which would delay small pieces
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ioloop = self._new_ioloop()
        self._lock = threading.RLock()
        self._main_drove_at = time.monotonic()
        self._main_knocks = False
        self.closing = threading.Event()
        self.keeper = SignalFreeThread(self._keep, "keeper")
        self.shutdown.handlers.wake_through(self._bell[1])

    def __enter__(self) -> Loop:
        self.shutdown.hold()
        if not self._lock.acquire(blocking=False):
            self._main_knocks = True
            self._ring()
            self._lock.acquire()
            self._main_knocks = False
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self.shutdown.release()  # last, because it may raise

    def drive(self, until: Callable[[], object], seconds: float = float("inf")) -> None:
        """Drive the loop until `until()` is true, or the time is up. Only inside `with loop`."""
        deadline = time.monotonic() + seconds
        ioloop = self.ioloop
        # A step can't be told how long to wait, and may take 5 s. A timer that does nothing ends it in time.
        alarm = ioloop.call_later(max(0.0, seconds), lambda: None) if seconds != float("inf") else None
        while not until() and time.monotonic() < deadline:
            self.step()
        if alarm is not None and ioloop is self.ioloop:
            ioloop.remove_timeout(alarm)

    def step(self) -> None:
        """Run the loop once, and pika's callbacks. Only inside `with loop`.

        If there is something to send, it ends when that is sent; else when input, a timer, a signal or the bell comes.
        """
        self._step()
        self._main_drove_at = time.monotonic()

    def _step(self) -> None:
        try:
            self._before_step()
            self.ioloop.poll()
            self.ioloop.process_timeouts()
        except Exception as error:
            logging.getLogger(__name__).info("A step of the loop has failed.", exc_info=True)
            broken = self.ioloop
            with contextlib.suppress(Exception):  # no descriptor is left: go on with the old one
                self.ioloop = self._new_ioloop()
            self._on_error(error)
            if self.ioloop is not broken:
                broken.close()

    def close(self) -> None:
        """End the keeper, and close everything."""
        if self.keeper.is_alive():
            self._ring()
            self.keeper.join()
        self.shutdown.handlers.wake_through(None)
        self.ioloop.close()
        for end in self._bell:
            end.close()

    def _new_ioloop(self) -> IOLoop:
        ioloop = IOLoop()
        ioloop.activate_poller()
        ioloop.add_handler(self._bell[0].fileno(), self._silence_bell, IOLoop.READ)
        if self.shutdown.stop is not None:
            self._end_steps_early(ioloop)
        return ioloop

    def _end_steps_early(self, ioloop: IOLoop) -> None:
        # Another thread sets `stop`, and can't ring the bell. So a timer ends each step soon, and then we look at it.
        ioloop.call_later(STOP_SEEN_WITHIN, lambda: self._end_steps_early(ioloop))

    def _silence_bell(self, *_: object) -> None:
        self._bell[0].recv(4096)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # the socket is full: it rings already
            self._bell[1].send(b"\0")

    def _keep(self) -> None:
        away = 0.0  # seconds since the main thread has driven
        while not self.closing.wait(max(0.0, KEEPER_DELAY - away)):
            with self._lock:
                # If main waits for the lock, it counts as not away: we release the lock, and sleep. Without the sleep,
                # we would get it again before main wakes up.
                away = 0.0 if self._main_knocks else time.monotonic() - self._main_drove_at
                if away >= KEEPER_DELAY and not self.closing.is_set():
                    # Whatever on_error() raises, go on: without a keeper no heartbeat goes out.
                    with contextlib.suppress(Exception):
                        self._step()
            if away >= KEEPER_DELAY:
                self._after_keeping()
                self.shutdown.send_again()
