"""A task as it was delivered to a worker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from pika.channel import Channel

from task_queue.queues import DELIVERY_LIMIT, Rules
from task_queue.text import text_of


class Task(NamedTuple):
    """One task as it was delivered.

    Attributes:
        body: the message's body, whatever its bytes are.
        message_id: the same at each delivery, to know a task again; None if its sender set none.
        redelivered: it was handed out before, so it may have been done in part or whole.
        delivery_count: its tries that ended without acknowledgement; after too many it becomes a dead letter.
        channel, delivery_tag: what the consumer needs to settle it.
        received: when, on the monotonic clock.
    """

    body: bytes
    message_id: str | None
    redelivered: bool
    delivery_count: int
    channel: Channel
    delivery_tag: int  # good on this channel only
    received: float  # on the monotonic clock

    @property
    def text(self) -> str:
        """The body as text, with escapes for what is not UTF-8 in it."""
        return text_of(self.body)

    @property
    def is_last_try(self) -> bool:
        """Whether it becomes a dead letter if it fails this time."""
        return self.delivery_count >= DELIVERY_LIMIT

    @property
    def tries(self) -> str:
        """Which try this is, in words. A dead letter that went back has one more on RabbitMQ 4.3."""
        this, most = self.delivery_count + 1, DELIVERY_LIMIT + 1
        return f"try {this} of {most}" if this <= most else "one more try"

    def seconds(self) -> float:
        """Return how long ago the task was received."""
        return round(time.monotonic() - self.received, 6)


def earlier_tries(headers: Mapping[str, Any], rules: Rules) -> int:
    """Return how many failed tries RabbitMQ has counted, of a task that was handed out before.

    A first delivery may have such a header from its sender. In later ones RabbitMQ has written its own, if the task has
    failed. RabbitMQ 4.3 counts in another one how often it was handed out, which is never less: what is more than that
    is the sender's. Source: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    if "x-delivery-count" not in headers:
        return 0
    names = ["x-delivery-count"] if rules.counts_what_is_handed_back else ["x-delivery-count", "x-acquired-count"]
    counts = [headers[name] for name in names if name in headers]
    return max(0, min([count for count in counts if isinstance(count, int) and not isinstance(count, bool)], default=0))
