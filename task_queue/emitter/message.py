"""A task as a message to send: its body, its id, its properties."""

from __future__ import annotations

import itertools
import time
import uuid
from typing import NamedTuple

import pika

# A message's id is a UUID of this run, with a number as its last part: a uuid4() for each message would take a third of
# the emitter's time.
_RUN = str(uuid.uuid4())[:-12]
_numbers = itertools.count(1)


class Message(NamedTuple):
    """One task to send.

    Attributes:
        body: its text in UTF-8.
        message_id: a UUID; it stays the same when the message is sent again.
        timestamp: when it was made, in seconds since 1970.
        line: where it begins in a file or a pipe, counted from 1; None for a task that was typed.
        after: the previous task's next_line, so that a gap in a log can be seen.
        next_line: the line after this task.
    """

    body: bytes
    message_id: str
    timestamp: int
    line: int | None = None
    after: int | None = None
    next_line: int | None = None


def new_message(text: str | bytes, *where: int) -> Message:
    """Return a task as a message, with its line, after and next_line. Bytes must be UTF-8."""
    message_id = f"{_RUN}{next(_numbers):012x}"
    return Message(text.encode() if isinstance(text, str) else text, message_id, int(time.time()), *where)


def properties(message_id: str, timestamp: int) -> pika.BasicProperties:
    """Return a message's properties. It is persistent: RabbitMQ writes it to disk before it confirms it."""
    return pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        message_id=message_id,
        timestamp=timestamp,
    )
