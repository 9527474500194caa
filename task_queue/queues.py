"""The two queues, which are declared only here, and the differences between versions of RabbitMQ."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pika.channel import Channel

DELIVERY_LIMIT = 20  # failed tries; the default of RabbitMQ 4, while 3.x has no limit by default
# RabbitMQ 3.x reads -1, which is "no limit" to RabbitMQ 4, as a limit already exceeded and drops each requeued message.
NO_DELIVERY_LIMIT = 1_000_000_000
LONGEST_TASK = 86_400_000  # milliseconds: 24 hours
RETRY_STEP, LONGEST_RETRY = 1_000, 30_000  # milliseconds
# More arguments of the work queue. RabbitMQ uses the first from 3.12 on and the others from 4.3 on, else ignores them.
TIMES: dict[str, Any] = {
    "x-consumer-timeout": LONGEST_TASK,
    "x-delayed-retry-type": "failed",
    "x-delayed-retry-min": RETRY_STEP,  # a failed task waits this long, times the number of its tries,
    "x-delayed-retry-max": LONGEST_RETRY,  # but at most this long
}


def dead_letters_of(queue: str) -> str:
    """Return the name of the queue for tasks that failed too often."""
    return f"{queue}.dead-letters"


def declare_queues(channel: Channel, queue: str, times: Mapping[str, Any], then: Callable[[], None]) -> None:
    """Declare the queue and its dead letters, then call `then`. An existing queue does not change.

    They are quorum queues, which count failed tries: a task that kills every worker becomes a dead letter, and is not
    redelivered for ever. Source: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling

    Args:
        channel: an open channel.
        queue: the work queue's name.
        times: TIMES, or the values of an existing queue.
        then: called when both are declared.
    """
    dead_letters = dead_letters_of(queue)
    # pika sends the second when RabbitMQ has answered the first.
    channel.queue_declare(
        dead_letters, durable=True, arguments=_arguments(NO_DELIVERY_LIMIT, queue), callback=lambda _: None
    )
    channel.queue_declare(
        queue,
        durable=True,
        arguments={**_arguments(DELIVERY_LIMIT, dead_letters), **times},
        callback=lambda _: then(),
    )


class Rules(NamedTuple):
    """What RabbitMQ does with our queue.

    Attributes:
        version: RabbitMQ's, as numbers.
        has_delays: the queue has the arguments that make a failed task wait.
    """

    version: tuple[int, ...] = (0,)
    has_delays: bool = False

    @property
    def grants_two_after_dead_letter(self) -> bool:
        """Whether a consumer with prefetch 1 gets two tasks at a time after one became a dead letter.

        Source: https://github.com/rabbitmq/rabbitmq-server/pull/5609, which is in RabbitMQ 3.11.0 and later.
        """
        return self.version < (3, 11)

    @property
    def counts_what_is_handed_back(self) -> bool:
        """Whether a basic.nack with requeue, and the ack timeout, count as a failed try."""
        return self.version < (4, 3)

    @property
    def times_each_consumer(self) -> bool:
        """Whether a consumer can set its own ack timeout, instead of that of the queue, policy or server."""
        return self.version >= (4, 3)

    @property
    def knows_queues_own_timeout(self) -> bool:
        """Whether a queue, and not only the server, can have an ack timeout, by an argument or a policy.

        Source: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
        """
        return self.version >= (3, 12)

    def seconds_until_next_try(self, tries: int) -> float:
        """Return how long a task waits after `tries` failed tries, by our arguments; a policy may change that.

        Source: https://www.rabbitmq.com/docs/quorum-queues#delayed-retry
        """
        return min(RETRY_STEP * tries, LONGEST_RETRY) / 1000 if self.version >= (4, 3) else 0.0

    def is_dead_if_handed_back(self, failed_tries: int) -> bool:
        """Tell whether a task with this number of failed tries becomes a dead letter if it is handed back.

        On RabbitMQ 4.3 only a dead letter that was moved back does: its count goes on beyond the limit.
        """
        return failed_tries > DELIVERY_LIMIT - self.counts_what_is_handed_back


def rules_of(server_properties: Mapping[str, Any], times: Mapping[str, Any]) -> Rules:
    """Return the rules for a RabbitMQ with these server properties; an unknown version counts as the newest."""
    version = re.match(r"\d+(\.\d+)+", str(server_properties.get("version")))
    return Rules(tuple(map(int, version[0].split("."))) if version else (99,), dict(times) == TIMES)


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
