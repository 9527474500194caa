"""A node of RabbitMQ that confirms nothing any more, for example if it is cut off from its cluster."""

from __future__ import annotations

import time
from collections.abc import Callable

from pika.channel import Channel

from task_queue.emitter.message import Message
from task_queue.rabbitmq.connection import Connection
from task_queue.rabbitmq.error_messages import WITHOUT_A_WORD
from task_queue.rabbitmq.pika_internals import unsent_bytes
from task_queue.terminal.console import complain_in_background

# Seconds without a confirm until we go on at the next node. If that is silent, too, we wait twice as long there. If
# confirms are slow anyway, we wait twice the time that the last one took.
SILENCE, LONGEST_SILENCE = 10.0, 120.0
WATCH_EVERY = 1.0  # seconds


class SilentNode:
    """Watches whether confirms come; if not, says so once, and goes on at the next node, if there are several.

    A node that is cut off from the others goes on living, and sends heartbeats. Only confirms need the other nodes.

    Args:
        connection: its channel is watched.
        nodes: how many nodes there are.
        expects_confirms: tells whether RabbitMQ owes us one.
    """

    def __init__(self, connection: Connection, nodes: int, expects_confirms: Callable[[], bool]) -> None:
        self._connection, self._nodes, self._expects_confirms = connection, nodes, expects_confirms
        self._silence = SILENCE
        self._began = 0.0  # when we began to watch this channel, in seconds since 1970
        self._progress_at = 0.0  # on the monotonic clock
        self._is_told = False

    def answered(self, message: Message) -> None:
        """Note that RabbitMQ has confirmed a message, or refused it for now."""
        age = time.time() - max(message.timestamp, self._began)  # a queue that is slow here is slow at each node
        self._silence = min(max(SILENCE, 2 * age), LONGEST_SILENCE)
        self._progress_at, self._is_told = time.monotonic(), False

    def watch(self, channel: Channel, before: int | None = None) -> None:
        """Watch a new channel, every second from now on. `before` is how much was unsent a second ago."""
        if channel is not self._connection.channel:
            return
        if before is None:
            self._began = time.time()
        unsent = unsent_bytes(channel)
        # On a slow link, a large message needs longer than SILENCE; but less and less of it is unsent.
        if before is None or unsent < before or not self._expects_confirms():
            self._progress_at = time.monotonic()
        elif time.monotonic() - self._progress_at > self._silence:
            self._on_silence()
        self._connection.loop.ioloop.call_later(WATCH_EVERY, lambda: self.watch(channel, unsent))

    def _on_silence(self) -> None:
        if not self._is_told:
            self._is_told = True
            what = "Going on at the next node" if self._nodes > 1 else "Waiting"
            complain_in_background(f" [*] RabbitMQ has confirmed nothing for {self._silence:.0f} s. {what} ...")
        self._silence = min(2 * self._silence, LONGEST_SILENCE)
        if self._nodes > 1:
            self._connection.drop(WITHOUT_A_WORD)
