"""The two queues, declared here and nowhere else, and what differs from one version of RabbitMQ to the next."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pika.channel import Channel

DELIVERY_LIMIT = 20  # failed tries; the default of RabbitMQ 4, which 3.x has to be told
# RabbitMQ 3.x reads -1, which is "no limit" to RabbitMQ 4, as a limit already exceeded and drops each requeued message.
NO_DELIVERY_LIMIT = 1_000_000_000


def dead_letters_of(queue: str) -> str:
    """Return the name of the queue for tasks that failed too often."""
    return f"{queue}.dead-letters"


def declare_queues(channel: Channel, queue: str, then: Callable[[], None]) -> None:
    """Declare the queue and its dead letters, and call back. Declaring what is there already changes nothing.

    Quorum queues, because they count failed tries: a task that kills every worker ends in the dead letters instead
    of going round for ever. Source: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    dead_letters = dead_letters_of(queue)
    # pika sends the second when the first is answered.
    channel.queue_declare(
        dead_letters, durable=True, arguments=_arguments(NO_DELIVERY_LIMIT, queue), callback=lambda _: None
    )
    channel.queue_declare(
        queue, durable=True, arguments=_arguments(DELIVERY_LIMIT, dead_letters), callback=lambda _: then()
    )


def grants_two_after_dead_letter(server_properties: Mapping[str, Any]) -> bool:
    """Tell whether a subscription gets two tasks, in spite of prefetch 1, once one became a dead letter.

    Source: https://github.com/rabbitmq/rabbitmq-server/pull/5609, which RabbitMQ 3.11.0 was the first to have.
    """
    return _version(server_properties) < (3, 11)


def headers_with_counts(server_properties: Mapping[str, Any]) -> list[str]:
    """Return the names of the headers in which RabbitMQ counts the tries of a task; others are its sender's."""
    return ["x-delivery-count", "x-acquired-count"] if _version(server_properties) >= (4, 3) else ["x-delivery-count"]


def _version(server_properties: Mapping[str, Any]) -> tuple[int, int]:
    version = re.match(r"(\d+)\.(\d+)", str(server_properties.get("version")))
    return (int(version[1]), int(version[2])) if version else (99, 0)


def _arguments(delivery_limit: int, dead_letter_queue: str) -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_letter_queue,
        # The queue keeps a task until the other one has confirmed it. RabbitMQ wants reject-publish for that.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
