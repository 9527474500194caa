"""Lets RabbitMQ move the dead letters back to the queue.

We refuse each one (basic.nack, requeue=False), and RabbitMQ dead-letters it from their queue to the work queue:
unchanged, at least once, and without a copy made by us. Source: https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
"""

from __future__ import annotations

import pika
from pika.channel import Channel

from task_queue.exceptions import QueueError
from task_queue.process.shutdown import Shutdown
from task_queue.rabbitmq.connection import Connection
from task_queue.rabbitmq.queues import dead_letters_of, declare_dead_letters
from task_queue.settings import ConnectionSettings

PREFETCH = 20  # unacknowledged letters at a time; more are not faster, and need memory
LOOK_AFTER = 0.2  # seconds between two checks of the queue
# Checks in a row that must find the queue empty before we stop; more after a lost connection, when RabbitMQ needs some
# time to requeue. If that is too short, letters stay, and the next run moves them.
LOOKS, LOOKS_AFTER_LOSS = 2, 10


class DeadLetters:
    """The dead letters of a queue.

    Attributes:
        total: how many there were at the start; None before they were counted.
        moved: how many we have refused, so that they are on their way back. `_answered` counts those of them that
            RabbitMQ has surely processed, because it has answered a later request.
    """

    def __init__(self, settings: ConnectionSettings, shutdown: Shutdown) -> None:
        # Passive, because the work queue may have been declared with other arguments. Letters come back to it, too.
        self.connection = Connection(settings._replace(is_passive=True), shutdown, self._on_ready, self._on_lost)
        self.total: int | None = None
        self.moved = self._answered = 0
        self._queue, self._name = dead_letters_of(settings.queue), settings.name
        self._shutdown = shutdown
        self._looks = LOOKS

    def move(self) -> None:
        """Move at most as many as there are at the start. So a task that fails again meanwhile stays.

        After a lost connection, one may be moved twice.

        Raises:
            QueueError: the connection is lost, and reconnecting failed for good.
        """
        empty_looks = 0
        while self._answered != self.total and empty_looks < self._looks:
            with self.connection.loop:
                self.connection.wait(lambda: self.moved == self.total or self._shutdown.has_begun, LOOK_AFTER)
                before = self.moved
                is_empty = self.connection.finds_empty(self._queue)
                if is_empty is not None:
                    # RabbitMQ answers in order: so it has processed what we refused before we asked, and perhaps not
                    # what we refused since.
                    self._answered = before
            # Check twice: a letter on its way to us is not in the queue any more, and not here yet.
            empty_looks = empty_looks + 1 if is_empty and self.moved == before else 0

    def _on_ready(self, channel: Channel) -> None:
        cancelled = QueueError(f"RabbitMQ cancelled the subscription to {self._queue}. Was that queue deleted?")
        channel.add_on_cancel_callback(lambda _: self.connection.drop(cancelled))
        declare_dead_letters(channel, self.connection.settings.queue, then=lambda: self._on_declared(channel))

    def _on_declared(self, channel: Channel) -> None:
        if self.total is not None:
            self._subscribe(channel)
            return
        # basic.get tells how many there are. queue.declare would say 0 while the queue's leader does not answer.
        channel.add_callback(lambda _: self._on_counted(channel, 0), [pika.spec.Basic.GetEmpty])  # there is none
        channel.basic_get(self._queue, self._on_first)

    def _on_first(self, channel: Channel, method: pika.spec.Basic.GetOk, *message: object) -> None:
        self._on_counted(channel, 1 + (method.message_count or 0))
        self._on_letter(channel, method, *message)

    def _on_counted(self, channel: Channel, letters: int) -> None:
        self.total = letters
        self._subscribe(channel)

    def _subscribe(self, channel: Channel) -> None:
        channel.basic_qos(prefetch_count=PREFETCH)
        subscribed = self.connection.outage.subscribed
        channel.basic_consume(self._queue, self._on_letter, consumer_tag=self._name, callback=subscribed)

    def _on_letter(
        self, channel: Channel, method: pika.spec.Basic.Deliver | pika.spec.Basic.GetOk, *_message: object
    ) -> None:
        if self.moved != self.total:
            self.moved += 1
            # Not basic.reject: RabbitMQ 4.3 would count that as one more failed try of the task.
            channel.basic_nack(method.delivery_tag or 0, requeue=False)

    def _on_lost(self, _why: BaseException) -> None:
        self.moved = self._answered  # of the others we can't know: it redelivers those that it has not processed
        self._looks = LOOKS_AFTER_LOSS
