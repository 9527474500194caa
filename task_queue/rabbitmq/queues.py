"""The two queues, which are declared only here, and the differences between versions of RabbitMQ.

Both are quorum queues: these are kept on disk, on several nodes of a cluster, and unlike classic queues they count how
often a task has failed. So a poison message, which kills each worker, becomes a dead letter in the end. Source: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
Each is the dead-letter queue of the other: so a dead letter that is rejected goes back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pika.channel import Channel

DELIVERY_LIMIT = 20  # a task may fail so often; the next time makes it a dead letter. RabbitMQ 4 has this default
# Not -1: that means "no limit" to RabbitMQ 4 only. RabbitMQ 3.x would drop each message that is requeued.
NO_DELIVERY_LIMIT = 1_000_000_000
LONGEST_TASK = 86_400_000  # milliseconds until RabbitMQ takes a task back: 24 hours. On 4.3 --ack-timeout overrides it
RETRY_STEP, LONGEST_RETRY = 1_000, 30_000  # milliseconds


def dead_letters_of(queue: str) -> str:
    """Return the name of the queue for tasks that failed too often."""
    return f"{queue}.dead-letters"


def arguments_of(queue: str) -> dict[str, Any]:
    """Return the arguments of the work queue. RabbitMQ ignores those that it does not know yet.

    A queue keeps those that it was declared with: RabbitMQ refuses others (406), so a change needs a new queue.
    """
    return {
        **_arguments(DELIVERY_LIMIT, dead_letters_of(queue)),
        "x-consumer-timeout": LONGEST_TASK,  # RabbitMQ 3.12 and later
        "x-delayed-retry-type": "failed",  # RabbitMQ 4.3 and later
        # A failed task waits RETRY_STEP times the number of its tries, at most LONGEST_RETRY.
        "x-delayed-retry-min": RETRY_STEP,
        "x-delayed-retry-max": LONGEST_RETRY,
    }


def declare(channel: Channel, queue: str, is_passive: bool, then: Callable[[], None]) -> None:
    """Declare the queue and its dead letters, then call `then`. If passive, only see whether the queue is there."""

    def on_declared(_: object) -> None:  # declare the second only now: if the first is refused, none is left
        if is_passive:
            then()
        else:
            declare_dead_letters(channel, queue, then)

    arguments = arguments_of(queue)  # RabbitMQ ignores them in a passive declaration
    channel.queue_declare(queue, passive=is_passive, durable=True, arguments=arguments, callback=on_declared)


def declare_dead_letters(channel: Channel, queue: str, then: Callable[[], None]) -> None:
    """Declare the queue for the dead letters of a queue, then call `then`."""
    arguments = _arguments(NO_DELIVERY_LIMIT, queue)
    channel.queue_declare(dead_letters_of(queue), durable=True, arguments=arguments, callback=lambda _: then())


class Rules(NamedTuple):
    """What RabbitMQ does with the work queue.

    Attributes:
        declared_by_us: the queue has our arguments; else we do not know when and how often it retries.
        version: RabbitMQ's, as numbers.
    """

    declared_by_us: bool
    version: tuple[int, ...] = (0,)

    @property
    def has_prefetch_bug(self) -> bool:
        """Whether a consumer with prefetch 1 gets two tasks at a time after one became a dead letter.

        Source: https://github.com/rabbitmq/rabbitmq-server/pull/5609, which is in RabbitMQ 3.11.0 and later.
        """
        return self.version < (3, 11)

    def retry_delay(self, tries: int) -> float:
        """Return how many seconds a task waits after `tries` failed tries, by our arguments; a policy may change that.

        Source: https://www.rabbitmq.com/docs/quorum-queues#delayed-retry
        """
        return min(RETRY_STEP * tries, LONGEST_RETRY) / 1000 if self.version >= (4, 3) else 0.0


def version_of(server_properties: Mapping[str, Any]) -> tuple[int, ...]:
    """Return RabbitMQ's version as numbers; an unknown one counts as the newest."""
    version = re.match(r"\d+(\.\d+)+", str(server_properties.get("version")))
    return tuple(map(int, version[0].split("."))) if version else (99,)


def _arguments(delivery_limit: int, dead_letter_queue: str) -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_letter_queue,
        # The queue keeps a task until the other queue has confirmed it. RabbitMQ needs reject-publish for that.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
