"""The life of a connection to RabbitMQ: connect, declare the queues, notice a loss, reconnect, give up."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pika
from pika.channel import Channel

from task_queue.exceptions import QueueError
from task_queue.process.shutdown import Shutdown
from task_queue.rabbitmq.error_messages import in_words, limits_in_words
from task_queue.rabbitmq.outage import LASTS_AFTER, Outage
from task_queue.rabbitmq.pika_internals import PikaConnection
from task_queue.rabbitmq.queues import Rules, declare, version_of
from task_queue.rabbitmq.shared_loop import Loop
from task_queue.settings import ConnectionSettings, place
from task_queue.terminal.console import complain_in_background
from task_queue.terminal.text import printable

CLOSE_WITHIN = 3.0  # seconds; a broker that is blocked or frozen never answers connection.close


class Connection:
    """A connection to RabbitMQ that sends heartbeats while its owner is busy, and reconnects when it is lost.

    Args:
        settings: where to connect, and whether the queues are declared on every new connection.
        shutdown: of the program.
        on_ready: called with the new channel, each time that a connection is open and the queues are declared.
        on_lost: called with the reason when a connection is lost, or can't be made.
        after_keeping: see Loop.

    Attributes:
        loop: call pika only inside `with connection.loop:`.
        channel: None while there is no connection.
        rules: what RabbitMQ does with the queue, as found on the last connection.
        is_blocked: RabbitMQ has sent connection.blocked, so it takes no tasks for now.
        outage: call its success() when a task is confirmed or settled.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        shutdown: Shutdown,
        on_ready: Callable[[Channel], None],
        on_lost: Callable[[BaseException], None],
        after_keeping: Callable[[], None] = lambda: None,
    ) -> None:
        for node in settings.nodes:
            node.client_properties = {"connection_name": settings.name}
        self.settings = settings
        self.channel: Channel | None = None
        self.rules = Rules(declared_by_us=not settings.is_passive)
        self.is_blocked = False
        self.outage = Outage(settings.patience, len(settings.nodes))
        self._on_ready, self._on_lost = on_ready, on_lost
        self._nodes = deque(settings.nodes)  # rotated: the current one is at the end
        self._pika: PikaConnection | None = None
        self._why: BaseException | None = None  # our reason for closing; pika would only say that we closed it
        self._failure: QueueError | None = None  # for the main thread to raise
        with limits_in_words():
            self.loop = Loop(shutdown, self._flush, self._on_error, after_keeping)

    @property
    def where(self) -> str:
        """The queue, and where it is if that is not the usual place."""
        return f"queue {self.settings.queue}{place(self._nodes[-1])}"

    def open(self) -> None:
        """Connect to the first node that accepts us. Returns early after a signal. Raises QueueError if none does."""
        with limits_in_words():
            self.loop.keeper.start()
        with self.loop:
            self._connect()
            self.wait(lambda: self.channel or self.loop.shutdown.has_begun)

    def wait(self, until: Callable[[], object], seconds: float = float("inf")) -> None:
        """Drive the loop until `until()` is true or the time is up. Call it only inside `with loop`.

        Raises:
            QueueError: the connection is lost, and reconnecting failed for good.
        """
        self.loop.drive(lambda: self._failure or until(), seconds)
        self.check()

    def finds_empty(self, queue: str) -> bool | None:
        """Tell whether a queue that we consume is empty; None after a loss or a signal. Only inside `with loop`."""
        channel = self.channel
        answers: list[pika.spec.Queue.DeclareOk] = []
        if channel is not None:  # RabbitMQ answers after it has processed all that we sent before
            channel.queue_declare(queue, passive=True, callback=lambda frame: answers.append(frame.method))
            self.wait(lambda: answers or self.loop.shutdown.has_begun or self.channel is not channel)
        # We consume from this queue, so RabbitMQ must count a consumer. If it counts none, the queue's leader has not
        # answered within 0.25 s, and then a count of 0 messages means nothing, either.
        if not answers or self.channel is not channel:
            return None
        return not answers[0].message_count and bool(answers[0].consumer_count)

    def check(self) -> None:
        """Raise a QueueError if reconnecting has failed for good."""
        if self._failure is not None:
            raise self._failure

    def drop(self, why: BaseException) -> None:
        """Close this connection, for a reason, and reconnect. Call it with the loop's lock."""
        self.channel = None
        if self._pika is not None and self._pika.is_open:
            self._why = why
            self._pika.close()
            # pika closes only when it has all answers that are missing, which may be never. So cut it then; if it is
            # closed, that does nothing.
            self.loop.ioloop.call_later(CLOSE_WITHIN, self._pika.abort)

    def close(self, within: float = CLOSE_WITHIN) -> None:
        """Send what is left, such as the last acknowledgement, and close. Take at most `within` seconds."""
        self.loop.closing.set()  # from here on we do not reconnect
        with self.loop:
            if self._pika is not None:
                with contextlib.suppress(Exception):  # it is closing already, or not open yet
                    self._pika.close()
                self.loop.drive(lambda: self._pika is None, within)
            if self._pika is not None:
                self._pika.abort()
        self.loop.close()

    # From here on: called by pika when RabbitMQ has answered, in the thread that drives the loop. A connection is lost
    # when pika says so or has closed it for us (_on_closed), or when a step raised an exception (_on_error). Then come
    # _reconnect, a pause, _connect, _on_open, _on_channel, _on_declared, on_ready. At most one connection is alive.

    def _connect(self) -> None:
        self._nodes.rotate(-1)
        try:
            self._pika = PikaConnection(self.loop.ioloop, self._nodes[-1], self._on_open, self._on_closed)
        except Exception as error:
            self._reconnect(error)

    def _on_open(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self.rules = self.rules._replace(version=version_of(connection.server_properties or {}))
        channel = connection.channel(on_open_callback=self._on_channel)
        channel.add_on_close_callback(lambda _channel, why: self.drop(why))

    def _on_channel(self, channel: Channel) -> None:
        declare(channel, self.settings.queue, not self.rules.declared_by_us, then=lambda: self._on_declared(channel))

    def _on_blocked(self, _connection: object, frame: Any) -> None:
        self.is_blocked = True
        complain_in_background(f" [*] RabbitMQ takes no tasks for now: {printable(frame.method.reason)}. Waiting ...")

    def _on_unblocked(self, *_: object) -> None:
        self.is_blocked = False
        complain_in_background(" [*] RabbitMQ takes tasks again.")

    def _on_declared(self, channel: Channel) -> None:
        self.channel = channel
        self.outage.connected()
        self.loop.ioloop.call_later(LASTS_AFTER, lambda: self.outage.end() if self.channel is channel else None)
        self._on_ready(channel)

    def _on_closed(self, connection: Any, why: BaseException) -> None:
        if connection is self._pika:
            self._pika = None
            self._reconnect(self._why or why)

    def _on_error(self, error: Exception) -> None:
        broken, self._pika, self.channel = self._pika, None, None  # first: timers and callbacks of this one do nothing
        if broken is not None:
            broken.abort()
        self._reconnect(error)

    def _reconnect(self, why: BaseException) -> None:
        self.channel = self._why = None
        self.is_blocked = False
        if self.loop.closing.is_set():
            return
        self._on_lost(why)
        words, is_final = in_words(why, self._nodes[-1], self.settings)
        if refusals := self.outage.why_give_up(words, is_final):
            self._give_up(refusals)
        elif not self.outage.had_connection:
            self._connect()  # the next node, until each was tried once
        else:
            self.outage.tell_of_loss(words)
            self.loop.ioloop.call_later(self.outage.pause(), self._connect)

    def _give_up(self, why: str) -> None:
        self._failure = QueueError(why)
        if threading.current_thread() is not self.loop.main:  # which may be busy for long, at the prompt say
            self._failure.is_told = True
            complain_in_background(f" [!] {self._failure}")

    def _flush(self) -> None:
        if self._pika is not None:
            self._pika.flush()
