"""Why RabbitMQ has cancelled a worker's subscription: it does not say, so it is asked whether the queue is there."""

from __future__ import annotations

from task_queue.connection import Connection
from task_queue.errors import why_cancelled
from task_queue.failures import QueueError
from task_queue.given_back import GivenBack
from task_queue.task import Task

DELETES_WITHIN = 0.3  # seconds; RabbitMQ cancels the subscriptions to a queue first, and deletes it then
ANSWERS_WITHIN = 1.0  # seconds; a queue without a leader is silent


def find_out(connection: Connection, overdue: Task | None, given_back: GivenBack) -> None:
    """Find out why, and make a new connection with that reason. Only inside a callback.

    Args:
        connection: the worker's.
        overdue: the task in hand, if it has taken longer than its ack timeout allows.
        given_back: where that is noted, if that was the reason.
    """
    channel = connection.channel
    connection.channel = None  # the task in hand is not ours any more, so nothing is said of it
    seconds = overdue.seconds() if overdue is not None else None

    def ask() -> None:  # a queue that is gone closes the channel with that reason
        if channel is not None and channel.is_open:
            channel.queue_declare(connection.queue, passive=True, callback=lambda _: lose())

    def lose() -> None:
        if channel is not None and channel.is_open:
            if overdue is not None:
                given_back.took_too_long(overdue)
            connection.lose(QueueError(why_cancelled(seconds)))

    connection.loop.ioloop.call_later(DELETES_WITHIN, ask)
    connection.loop.ioloop.call_later(DELETES_WITHIN + ANSWERS_WITHIN, lose)
