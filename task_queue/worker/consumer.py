"""Consuming: get the next task from the queue, then settle it with an ack, a reject or a nack."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import pika
from pika.channel import Channel

from task_queue.exceptions import QueueError
from task_queue.process.shutdown import Shutdown
from task_queue.rabbitmq.connection import CLOSE_WITHIN, Connection
from task_queue.rabbitmq.error_messages import CANCELLED
from task_queue.settings import ConnectionSettings
from task_queue.worker.slow_down import SlowDown
from task_queue.worker.task import Task, delivered_task

LAST_ANSWER = 1.0  # seconds; a broker that is blocked or frozen never answers
RETRY_MAY_BE_LATE = 2.0  # seconds that the next try of a failed task may come late
BURST_PATIENCE = 0.1  # seconds without a task before a --burst worker asks RabbitMQ whether the queue is empty


class Consumer:
    """Takes one task at a time (prefetch 1): RabbitMQ delivers the next one when the first is settled.

    Args:
        settings: where to connect; the name is also the consumer tag.
        shutdown: of the program.
        ack_timeout: hours that a task may take before RabbitMQ takes it back. Needs RabbitMQ 4.3; source:
            https://www.rabbitmq.com/docs/consumers#per-consumer-delivery-timeouts-using-a-queue-argument
        burst: next() returns None when the queue is empty and no task that failed here waits for its next try.
        slows_down: wait before the next task when many in a row have failed: see SlowDown.
    """

    def __init__(
        self, settings: ConnectionSettings, shutdown: Shutdown, ack_timeout: float, burst: bool, slows_down: bool
    ) -> None:
        self.in_hand: Task | None = None
        self.connection = Connection(settings, shutdown, self._on_ready, self._on_lost)
        self._shutdown = shutdown
        self._tag = settings.name
        self._ack_timeout = ack_timeout * 3600  # seconds
        self._is_burst = burst
        self._slow_down = SlowDown(slows_down)
        self._retries_until = 0.0  # until then, tasks that failed here may come back
        self._delivered: deque[Task] = deque()  # not in hand yet; at most one, if RabbitMQ respects the prefetch
        # wants   subscribed   the worker
        # yes     no           waits for a connection, or for the answer to basic.cancel, and then subscribes
        # yes     yes          waits for a task
        # no      yes          has a task; RabbitMQ sends the next one when this is settled
        # no      no           has a task and no subscription any more, or ends, or waits because too many have failed
        self._wants_task = False
        self._is_subscribed = False  # from basic.consume until RabbitMQ has answered basic.cancel

    def next(self) -> Task | None:
        """Wait for a task and return it; None after a signal or at the end of a burst."""
        with self.connection.loop:
            if self._slow_down.seconds:
                self.connection.wait(lambda: self._shutdown.has_begun, self._slow_down.seconds)
            self._wants_task = not self._shutdown.has_begun
            self._subscribe()
            self.connection.wait(self._has_news, BURST_PATIENCE if self._is_burst else float("inf"))
            if self._is_burst:
                self._wait_until_empty()
            self._wants_task = False
            if self._delivered and not self._shutdown.has_begun:
                self.in_hand = self._delivered.popleft()
        return self.in_hand

    def acknowledge(self, is_last: bool) -> bool:
        """Acknowledge the task in hand. False if its connection is gone: RabbitMQ will deliver the task again.

        True means that the answer was sent; for the last task, also that RabbitMQ still answered then.
        """
        in_hand = self.in_hand
        is_sent = self._settle(lambda task: task.channel.basic_ack(task.delivery_tag), is_last)
        if not is_sent:
            self._expect_again(in_hand)
        self._slow_down.done()
        return is_sent

    def reject(self, is_last: bool) -> bool:
        """Hand the task in hand back as failed, which counts towards its delivery limit.

        With requeue=True: RabbitMQ itself makes it a dead letter at the limit. By basic.reject and not by basic.nack:
        RabbitMQ 4.3 counts only the first one as a failed try.
        """
        self._expect_again(self.in_hand)
        if self.in_hand is not None:
            self._slow_down.failed(self.in_hand)
        # RabbitMQ before 3.11 may send two tasks after a reject; and while we slow down, no task must wait here. So end
        # the subscription first. next() subscribes again.
        unsubscribes = self.connection.rules.has_prefetch_bug or self._slow_down.seconds > 0
        return self._settle(
            lambda task: task.channel.basic_reject(task.delivery_tag, requeue=True), is_last, unsubscribes
        )

    def hand_back(self) -> bool:
        """Hand the task in hand back as not done, by basic.nack. Before RabbitMQ 4.3 that counts as a try, too."""
        return self._settle(lambda task: task.channel.basic_nack(task.delivery_tag, requeue=True), is_last=True)

    def seconds_until_next_try(self, task: Task) -> float:
        """Return how long a failed task waits, by the queue's arguments; 0 for no wait, or no tries left."""
        rules = self.connection.rules
        return rules.retry_delay(task.delivery_count + 1) if rules.declared_by_us and not task.is_last_try else 0.0

    def close(self) -> None:
        """End the subscription, hand back a task that came too late to be begun, and close the connection."""
        with self.connection.loop as loop:
            self._unsubscribe()
            for task in self._delivered:  # else RabbitMQ 4.3 counts a failed try when the connection is closed
                if task.channel is self.connection.channel:
                    task.channel.basic_nack(task.delivery_tag, requeue=True)
            loop.drive(lambda: not self._is_subscribed, LAST_ANSWER)
        self.connection.close(CLOSE_WITHIN - LAST_ANSWER)

    def _settle(self, answer: Callable[[Task], None], is_last: bool, unsubscribes: bool = False) -> bool:
        with self.connection.loop as loop:
            task, self.in_hand = self.in_hand, None
            if task is None or task.channel is not self.connection.channel:
                return False
            is_last = is_last or self._shutdown.has_begun
            if is_last or unsubscribes:
                self._unsubscribe()  # first: the answer makes RabbitMQ deliver the next task
            answer(task)
            loop.step()  # sends it now, and waits for nothing else: RabbitMQ works while we report the result
            if is_last:  # If RabbitMQ does not even answer basic.cancel, which came before our answer, that may be lost
                loop.drive(lambda: not self._is_subscribed or task.channel is not self.connection.channel, LAST_ANSWER)
            if task.channel is not self.connection.channel or (is_last and self._is_subscribed):
                return False
            self.connection.outage.success()
            return True

    def _expect_again(self, task: Task | None) -> None:
        if task is not None and (wait := self.seconds_until_next_try(task)):
            self._retries_until = max(self._retries_until, time.monotonic() + wait + RETRY_MAY_BE_LATE)

    def _wait_until_empty(self) -> None:
        empty_looks = 0
        # Check twice: while a task is on its way to us, it is counted on neither side.
        while empty_looks < 2 and not self._has_news():
            # RabbitMQ does not count tasks that wait for their next try.
            self.connection.wait(self._has_news, max(self._retries_until - time.monotonic(), BURST_PATIENCE))
            empty_looks = empty_looks + 1 if self.connection.finds_empty(self.connection.settings.queue) else 0

    def _has_news(self) -> bool:
        return bool(self._delivered) or self._shutdown.has_begun

    def _on_ready(self, channel: Channel) -> None:
        channel.add_on_cancel_callback(lambda _: self.connection.drop(QueueError(CANCELLED)))
        channel.basic_qos(prefetch_count=1)
        self._subscribe()

    def _subscribe(self) -> None:
        # Only while the worker waits for a task: if it reconnects in the middle of one, it must not get a second one.
        channel = self.connection.channel
        if channel is not None and self._wants_task and not self._is_subscribed:
            self._is_subscribed = True
            timeout = {"x-consumer-timeout": int(self._ack_timeout * 1000)}  # milliseconds
            channel.basic_consume(
                self.connection.settings.queue,
                self._on_delivery,
                consumer_tag=self._tag,
                arguments=timeout if self.connection.rules.declared_by_us else None,  # classic queues do not support it
                callback=self.connection.outage.subscribed,
            )

    def _unsubscribe(self) -> None:
        # A task that arrives after basic.cancel is rejected by pika. This is rare, and counts as a failed try. A second
        # basic.cancel is ignored by pika.
        self._wants_task = False
        if self.connection.channel is not None and self._is_subscribed:
            self.connection.channel.basic_cancel(self._tag, callback=self._on_unsubscribed)

    def _on_unsubscribed(self, _frame: object) -> None:
        self._is_subscribed = False
        self.connection.loop.ioloop.call_later(0, self._subscribe)  # later: pika must free the consumer tag first

    def _on_lost(self, _why: BaseException) -> None:
        self._delivered.clear()
        self._is_subscribed = False

    def _on_delivery(
        self, channel: Channel, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        is_limit_known = self.connection.rules.declared_by_us
        self._delivered.append(delivered_task(channel, method, properties, body, is_limit_known))
