"""The first step on a new connection: open a channel and declare both queues, even if the work queue is an old one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pika
from pika.channel import Channel

from task_queue import outbox
from task_queue.commands import policy
from task_queue.queues import TIMES, Rules, declare_queues, rules_of
from task_queue.text import printable

# RabbitMQ 4.3: inequivalent arg 'x-...' for queue '...' in vhost '...': received ... but current is ... (cut off after
# 255 bytes)
OTHER_ARGUMENT = r"inequivalent arg '([\w-]+)'"
ITS_VALUE = r" current is (?:the value )?'([^']*)'"


class Declaration:
    """Opens a channel and declares both queues on it.

    A queue that an older version of this program declared lacks some of our arguments, and nothing can add them to an
    existing queue. RabbitMQ 4.3 refuses to declare it with them (older versions ignore them). So for each refused
    argument we declare again with the queue's own value, and print the policy that has the same effect.

    Args:
        connection: an open connection of pika.
        queue: the work queue's name.
        on_declared: called with the channel and the rules that apply there.
        on_closed: called with the reason when the channel is closed, then or later.
    """

    _told: ClassVar[set[str]] = set()  # queues for which this process has printed the message

    def __init__(
        self,
        connection: pika.SelectConnection,
        queue: str,
        on_declared: Callable[[Channel, Rules], None],
        on_closed: Callable[[BaseException], None],
    ) -> None:
        self._connection, self._queue = connection, queue
        self._on_declared, self._on_closed = on_declared, on_closed
        self._other: dict[str, str | None] = {}  # arguments that differ from ours: the queue's own value, or None
        self._open_channel()

    def _open_channel(self) -> None:
        channel = self._connection.channel(on_open_callback=self._declare)
        channel.add_on_close_callback(self._on_channel_closed)

    def _declare(self, channel: Channel) -> None:
        times = times_with(self._other)
        declare_queues(channel, self._queue, times, then=lambda: self._end(channel, times))

    def _end(self, channel: Channel, times: Mapping[str, Any]) -> None:
        if self._other and self._queue not in Declaration._told:
            Declaration._told.add(self._queue)
            outbox.complain(words_for(self._queue, self._connection.params, self._other))
        self._on_declared(channel, rules_of(self._connection.server_properties or {}, times))

    def _on_channel_closed(self, _channel: Channel, why: Exception) -> None:
        text = getattr(why, "reply_text", "")
        refused, value = re.search(OTHER_ARGUMENT, text), re.search(ITS_VALUE, text)
        if refused and refused[1] in TIMES.keys() - self._other.keys():
            self._other[refused[1]] = value[1] if value else None
            self._open_channel()
        else:
            self._on_closed(why)


def times_with(other: Mapping[str, str | None]) -> dict[str, Any]:
    """Return TIMES with the values that the existing queue was declared with."""
    has = {name: type(TIMES[name])(value) for name, value in other.items() if value is not None}
    return {**{name: value for name, value in TIMES.items() if name not in other}, **has}


def words_for(queue: str, node: pika.connection.Parameters, other: Mapping[str, str | None]) -> str:
    """Say that the queue is used as it is, what it lacks, and which policy has the same effect."""
    lacking = {name: TIMES[name] for name in other if other[name] is None}
    said = (
        f" [*] Queue {printable(queue)} was declared by another program, or an older version of this one: "
        f"{', '.join(other)} {'differ' if len(other) > 1 else 'differs'} from our settings. The queue is used as it is."
    )
    if "x-delayed-retry-type" not in lacking:
        return said
    return (
        f"{said} A failed task is tried again at once, unless a policy says otherwise. "
        f"Set one{policy(node, queue, lacking)}"
    )
