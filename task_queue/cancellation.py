"""Why RabbitMQ has cancelled a worker's subscription. It gives no reason, so we ask whether the queue still exists."""

from __future__ import annotations

from task_queue.connection import Connection
from task_queue.errors import why_cancelled
from task_queue.failures import QueueError
from task_queue.task import Task

DELETES_WITHIN = 0.3  # seconds; RabbitMQ first cancels the subscriptions to a queue, and then deletes it
ANSWERS_WITHIN = 1.0  # seconds; a queue without a leader does not answer


def find_out(connection: Connection, overdue: Task | None) -> None:
    """Find out why, and reconnect with that reason. Call it only inside a callback.

    Args:
        connection: the worker's.
        overdue: the task in hand, if it has taken longer than its ack timeout allows.
    """
    channel = connection.channel
    connection.channel = None  # the task in hand is not ours any more, so it must not be settled
    seconds = overdue.seconds() if overdue is not None else None

    def ask() -> None:  # if the queue is gone, RabbitMQ closes the channel and says so
        if channel is not None and channel.is_open:
            channel.queue_declare(connection.queue, passive=True, callback=lambda _: lose())

    def lose() -> None:
        if channel is not None and channel.is_open:
            connection.lose(QueueError(why_cancelled(seconds)))

    connection.loop.ioloop.call_later(DELETES_WITHIN, ask)
    connection.loop.ioloop.call_later(DELETES_WITHIN + ANSWERS_WITHIN, lose)
