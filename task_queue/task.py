"""A task as it was delivered to a worker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from pika.channel import Channel

from task_queue.queues import DELIVERY_LIMIT
from task_queue.terminal import text_of


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

    def seconds(self) -> float:
        """Return how long ago the task was received."""
        return round(time.monotonic() - self.received, 6)


def earlier_tries(headers: Mapping[str, Any], headers_with_counts: list[str]) -> int:
    """Return how many tries RabbitMQ has counted, of a task that was handed out before.

    A first delivery may have such a header from its sender. In later ones RabbitMQ has written its own; where there
    are two, the smaller one is right. Source: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    counts = [headers.get(name) for name in headers_with_counts]
    return max(0, min([count for count in counts if isinstance(count, int) and not isinstance(count, bool)], default=0))
