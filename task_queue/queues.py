"""The two queues, declared here and nowhere else, and what differs from one version of RabbitMQ to the next."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pika.channel import Channel

DELIVERY_LIMIT = 20  # failed tries; the default of RabbitMQ 4, which 3.x has to be told
# RabbitMQ 3.x reads -1, which is "no limit" to RabbitMQ 4, as a limit already exceeded and drops each requeued message.
NO_DELIVERY_LIMIT = 1_000_000_000
LONGEST_TASK = 86_400_000  # milliseconds: 24 hours
RETRY_STEP, LONGEST_RETRY = 1_000, 30_000  # milliseconds
# What the work queue has besides. RabbitMQ 3.12 knows the first and 4.3 all of them; others accept and ignore them.
TIMES: dict[str, Any] = {
    "x-consumer-timeout": LONGEST_TASK,
    "x-delayed-retry-type": "failed",
    "x-delayed-retry-min": RETRY_STEP,  # a failed task waits for so long, times the tries it has had,
    "x-delayed-retry-max": LONGEST_RETRY,  # and at most for so long
}


def dead_letters_of(queue: str) -> str:
    """Return the name of the queue for tasks that failed too often."""
    return f"{queue}.dead-letters"


def declare_queues(channel: Channel, queue: str, times: Mapping[str, Any], then: Callable[[], None]) -> None:
    """Declare the queue and its dead letters, and call back. Declaring what is there already changes nothing.

    Quorum queues, because they count failed tries: a task that kills every worker ends in the dead letters instead
    of going round for ever. Source: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling

    Args:
        channel: on which.
        queue: the work queue's name.
        times: TIMES, or what a queue that is there has in their place.
        then: called when both are declared.
    """
    dead_letters = dead_letters_of(queue)
    # pika sends the second when the first is answered.
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
        version: its numbers.
        has_delays: the queue has the arguments by which a failed task waits.
    """

    version: tuple[int, ...] = (0,)
    has_delays: bool = False

    @property
    def grants_two_after_dead_letter(self) -> bool:
        """Whether a subscription gets two tasks, in spite of prefetch 1, once one became a dead letter.

        Source: https://github.com/rabbitmq/rabbitmq-server/pull/5609, which RabbitMQ 3.11.0 was the first to have.
        """
        return self.version < (3, 11)

    @property
    def counts_what_is_handed_back(self) -> bool:
        """Whether a task that is handed back by basic.nack, or taken back after the ack timeout, has failed."""
        return self.version < (4, 3)

    @property
    def times_each_consumer(self) -> bool:
        """Whether a consumer may say how long a task may take, over what queue, policy and server say."""
        return self.version >= (4, 3)

    @property
    def knows_queues_own_timeout(self) -> bool:
        """Whether a queue may have an ack timeout of its own, by an argument or a policy, and not the server alone.

        Source: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
        """
        return self.version >= (3, 12)

    def seconds_until_next_try(self, tries: int) -> float:
        """Return how long a task waits that has failed so often, by our arguments; a policy may say otherwise.

        Source: https://www.rabbitmq.com/docs/quorum-queues#delayed-retry
        """
        return min(RETRY_STEP * tries, LONGEST_RETRY) / 1000 if self.version >= (4, 3) else 0.0

    def is_dead_if_handed_back(self, failed_tries: int) -> bool:
        """Tell whether a task that has failed so often becomes a dead letter if it is handed back.

        On RabbitMQ 4.3 that is so of a dead letter that went back, whose count goes on beyond the limit.
        """
        return failed_tries > DELIVERY_LIMIT - self.counts_what_is_handed_back


def rules_of(server_properties: Mapping[str, Any], times: Mapping[str, Any]) -> Rules:
    """Return the rules of the RabbitMQ that says this of itself; an unknown version is taken for the newest."""
    version = re.match(r"\d+(\.\d+)+", str(server_properties.get("version")))
    return Rules(tuple(map(int, version[0].split("."))) if version else (99,), dict(times) == TIMES)


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
