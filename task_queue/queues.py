"""The two queues, which are declared only here, and the differences between versions of RabbitMQ."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pika
from pika.channel import Channel

DELIVERY_LIMIT = 20  # failed tries; the default of RabbitMQ 4, while 3.x has no limit by default
# RabbitMQ 3.x reads -1, which is "no limit" to RabbitMQ 4, as a limit already exceeded and drops each requeued message.
NO_DELIVERY_LIMIT = 1_000_000_000
LONGEST_TASK = 86_400_000  # milliseconds: 24 hours
RETRY_STEP, LONGEST_RETRY = 1_000, 30_000  # milliseconds


class Declares(enum.Enum):
    """Which of the two queues a script declares. Nothing can change an existing queue: RabbitMQ refuses another one."""

    BOTH = enum.auto()
    LETTERS = enum.auto()  # the dead letters alone: also an older work queue must be able to get them back
    NOTHING = enum.auto()  # the work queue is used as it is


def dead_letters_of(queue: str) -> str:
    """Return the name of the queue for tasks that failed too often."""
    return f"{queue}.dead-letters"


def arguments_of(queue: str) -> dict[str, Any]:
    """Return the arguments of the work queue. RabbitMQ ignores those that it does not know yet.

    Both are quorum queues, which count failed tries: a task that kills every worker becomes a dead letter, and is not
    redelivered for ever. Source: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    return {
        **_arguments(DELIVERY_LIMIT, dead_letters_of(queue)),
        "x-consumer-timeout": LONGEST_TASK,  # RabbitMQ 3.12 and later
        "x-delayed-retry-type": "failed",  # RabbitMQ 4.3 and later
        "x-delayed-retry-min": RETRY_STEP,  # a failed task waits this long, times the number of its tries,
        "x-delayed-retry-max": LONGEST_RETRY,  # but at most this long
    }


def open_channel(
    connection: pika.SelectConnection,
    queue: str,
    declares: Declares,
    on_declared: Callable[[Channel, Rules], None],
    on_closed: Callable[[BaseException], None],
) -> None:
    """Open a channel and declare the queues on it.

    Args:
        connection: an open connection of pika.
        queue: the work queue's name.
        declares: which queues to declare; if that is not the work queue, it must be there.
        on_declared: called with the channel and the rules that apply there.
        on_closed: called with the reason when the channel is closed, then or later.
    """

    def on_open(channel: Channel) -> None:
        rules = rules_of(connection.server_properties or {}, declares)
        declare(channel, queue, declares, then=lambda: on_declared(channel, rules))

    def on_channel_closed(_channel: Channel, why: Exception) -> None:
        if declares is Declares.LETTERS and f"no queue '{queue}'" in str(why):  # then it can't be an older one
            open_channel(connection, queue, Declares.BOTH, on_declared, on_closed)
        else:
            on_closed(why)

    connection.channel(on_open_callback=on_open).add_on_close_callback(on_channel_closed)


def declare(channel: Channel, queue: str, declares: Declares, then: Callable[[], None]) -> None:
    """Declare the queue and its dead letters, then call `then`."""

    def declare_letters(_: object) -> None:  # only now, so that a refusal of the first leaves nothing behind
        if declares is Declares.NOTHING:
            then()
            return
        letters = dead_letters_of(queue)
        arguments = _arguments(NO_DELIVERY_LIMIT, queue)
        channel.queue_declare(letters, durable=True, arguments=arguments, callback=lambda _: then())

    is_passive = declares is not Declares.BOTH  # then RabbitMQ compares no arguments
    channel.queue_declare(
        queue, passive=is_passive, durable=True, arguments=arguments_of(queue), callback=declare_letters
    )


class Rules(NamedTuple):
    """What RabbitMQ does with the work queue.

    Attributes:
        declares: which queues we declare.
        version: RabbitMQ's, as numbers.
    """

    declares: Declares
    version: tuple[int, ...] = (0,)

    @property
    def are_ours(self) -> bool:
        """Whether the queue has our arguments; else we do not know how often and when it has a failed task tried."""
        return self.declares is not Declares.NOTHING

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

    def seconds_until_next_try(self, tries: int) -> float:
        """Return how long a task waits after `tries` failed tries, by our arguments; a policy may change that.

        Source: https://www.rabbitmq.com/docs/quorum-queues#delayed-retry
        """
        return min(RETRY_STEP * tries, LONGEST_RETRY) / 1000 if self.version >= (4, 3) else 0.0

    def is_dead_if_handed_back(self, failed_tries: int) -> bool:
        """Tell whether a task with this number of failed tries becomes a dead letter if it is handed back.

        On RabbitMQ 4.3 only a dead letter that was moved back does: there its tries are counted on, beyond the limit.
        """
        return self.are_ours and failed_tries > DELIVERY_LIMIT - self.counts_what_is_handed_back


def rules_of(server_properties: Mapping[str, Any], declares: Declares) -> Rules:
    """Return the rules for a RabbitMQ with these server properties; an unknown version counts as the newest."""
    version = re.match(r"\d+(\.\d+)+", str(server_properties.get("version")))
    return Rules(declares, tuple(map(int, version[0].split("."))) if version else (99,))


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
