"""Lets RabbitMQ move the dead letters back to the queue.

We reject each one, and RabbitMQ dead-letters it from their queue to the work queue: unchanged, at least once, and
without a copy made by us. Source: https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
"""

from __future__ import annotations

import pika
from pika.channel import Channel

from task_queue import outbox
from task_queue.connection import Connection
from task_queue.failures import QueueError
from task_queue.queues import dead_letters_of
from task_queue.settings import Settings

PREFETCH = 250  # letters that RabbitMQ may deliver before we settle them
BATCH = 125  # letters that we reject at a time, while the next ones are on their way
LARGE = 1024 * 1024  # bytes; after a larger letter we take one at a time, to save memory
LOOK_AFTER = 0.2  # seconds that we wait for a full batch
STALLED = 25  # looks in a row without a letter, and without the answer that none is left
LOOKS, LOOKS_AFTER_LOSS = 2, 10  # that find no letter, before we stop; after a lost connection requeuing takes a while


class DeadLetters:
    """The dead letters of a queue.

    Attributes:
        total: how many there were at the start; None before they were counted.
        moved: how many are on their way back, as far as RabbitMQ has answered.
        is_exact: RabbitMQ has answered for all that we rejected.
    """

    def __init__(self, settings: Settings) -> None:
        self.connection = Connection(settings, self._on_ready, self._on_lost)
        self.total: int | None = None
        self.moved = 0
        self.is_exact = True
        self._queue, self._name = dead_letters_of(settings.queue), settings.name
        self._in_hand: list[int] = []  # delivery tags
        self._prefetch = PREFETCH
        self._looks_in_vain = 0  # in a row
        self._has_complained = False
        self._is_slow = False  # the prefetch of 1 is in force
        self._looks = LOOKS

    def move(self) -> None:
        """Move as many as there are now, or until none is left.

        A task that fails again meanwhile is not moved twice, unless the connection was lost before RabbitMQ answered.

        Raises:
            QueueError: the connection is lost, and reconnecting failed for good.
        """
        empty_looks = 0
        while self.moved != self.total and empty_looks < self._looks:
            with self.connection.loop as loop:
                self.connection.wait(lambda: self._has_batch() or loop.signals.interrupts, LOOK_AFTER)
                before, is_empty = self.moved, self._reject_and_look()
                self._watch(is_stalled=bool(self.connection.channel) and not is_empty and self.moved == before)
                if self._prefetch == 1 and not self._is_slow:  # only now: RabbitMQ has processed what we rejected
                    self._is_slow = True
                    self.connection.renew()
            empty_looks = empty_looks + 1 if is_empty and not self._in_hand else 0

    def _watch(self, is_stalled: bool) -> None:
        self._looks_in_vain = self._looks_in_vain + 1 if is_stalled else 0
        if self._looks_in_vain == STALLED:
            self._try_anew()

    def _try_anew(self) -> None:
        if not self._has_complained:
            self._has_complained = True
            outbox.complain(f" [*] {self._queue} does not answer, or delivers nothing. Waiting ...")
        if self.total is not None:  # a queue that was deleted and declared again may deliver nothing to old consumers
            self.connection.renew()

    def _has_batch(self) -> bool:
        return self.connection.channel is not None and len(self._in_hand) >= min(BATCH, self._prefetch)

    def _reject_and_look(self) -> bool:
        channel, signals = self.connection.channel, self.connection.loop.signals
        if channel is None or self.total is None or signals.interrupts:
            return False
        batch = self._in_hand[: self.total - self.moved]
        del self._in_hand[: len(batch)]
        if batch:
            channel.basic_nack(batch[-1], multiple=True, requeue=False)
        is_empty = self.connection.finds_empty(self._queue, stop=lambda: signals.interrupts)
        if is_empty is None:  # RabbitMQ may not have received our nack; then it delivers the batch again
            self.is_exact = self.is_exact and not batch
            return False
        self.moved += len(batch)
        return is_empty

    def _on_ready(self, channel: Channel) -> None:
        cancelled = QueueError(f"RabbitMQ cancelled the subscription to {self._queue}. Was that queue deleted?")
        channel.add_on_cancel_callback(lambda _: self.connection.lose(cancelled))
        if self.total is not None:
            self._subscribe(channel)
            return
        # We take one to count them: to a queue.declare, RabbitMQ answers 0 if the queue itself is too busy to answer.
        channel.add_callback(lambda _: self._on_counted(channel, 0), [pika.spec.Basic.GetEmpty])
        channel.basic_get(self._queue, self._on_first)

    def _on_first(
        self, channel: Channel, method: pika.spec.Basic.GetOk, properties: pika.BasicProperties, body: bytes
    ) -> None:
        self._on_letter(channel, method, properties, body)
        self._on_counted(channel, 1 + (method.message_count or 0))

    def _on_counted(self, channel: Channel, letters: int) -> None:
        self.total = letters
        self._subscribe(channel)

    def _subscribe(self, channel: Channel) -> None:
        channel.basic_qos(prefetch_count=self._prefetch)
        subscribed = self.connection.outage.first_success
        channel.basic_consume(self._queue, self._on_letter, consumer_tag=self._name, callback=subscribed)

    def _on_lost(self, _why: BaseException) -> None:
        self._in_hand.clear()
        self._looks = LOOKS_AFTER_LOSS

    def _on_letter(
        self,
        _channel: Channel,
        method: pika.spec.Basic.Deliver | pika.spec.Basic.GetOk,
        _properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        self._in_hand.append(method.delivery_tag or 0)
        if len(body) > LARGE:
            self._prefetch = 1
