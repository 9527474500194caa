"""A task as a message to send, and the window of messages whose result is not known yet."""

from __future__ import annotations

import itertools
import time
import uuid
from collections import deque
from typing import NamedTuple, Optional

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
        after: the line after the previous task, which may be blank.
        next_line: the line after this task.
    """

    body: bytes
    message_id: str
    timestamp: int
    line: int | None = None
    after: int | None = None
    next_line: int | None = None


def new_message(text: str | bytes, *where: int) -> Message:
    """Return a task as a message, with its line, after and next_line. As bytes, its text is in UTF-8."""
    message_id = f"{_RUN}{next(_numbers):012x}"
    return Message(text.encode() if isinstance(text, str) else text, message_id, int(time.time()), *where)


def properties(message_id: str, timestamp: int) -> pika.BasicProperties:
    """Return a message's properties. It is persistent: RabbitMQ has it on disk when it confirms it."""
    return pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        message_id=message_id,
        timestamp=timestamp,
    )


# A message and why RabbitMQ refuses it for good; None if it is confirmed.
Settled = tuple[Message, Optional[str]]


class Window:
    """The messages that were given to publish(), and whose result has not been reported yet.

    Each is in exactly one of three: unsent, unconfirmed, settled.
    """

    def __init__(self) -> None:
        self.unsent: deque[Message] = deque()  # because there is no connection, or the queue is full
        self.unconfirmed: dict[int, Message] = {}  # by delivery tag, in the order of publishing
        self.settled: deque[Settled] = deque()
        self.next_tag = 1
        # Separate counters, because two threads count: one what comes in, the other what goes out.
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = 0

    def add(self, message: Message) -> None:
        """Take in a message that is to be sent."""
        self.unsent.append(message)
        self.messages_in += 1
        self.bytes_in += len(message.body)

    def remove(self, reported: list[Settled]) -> None:
        """Forget the first settled messages, which have been reported."""
        for _ in reported:
            self.settled.popleft()
        self.messages_out += len(reported)
        self.bytes_out += sum(len(message.body) for message, _ in reported)

    def is_over(self, messages: int, size: int) -> bool:
        """Tell whether there are more than `messages` messages, or more than `size` bytes in them."""
        return self.messages_in - self.messages_out > messages or self.bytes_in - self.bytes_out > size

    def pending(self) -> list[Message]:
        """Return the messages that are neither confirmed nor refused for good, in the order in which to send them."""
        return [*self.unconfirmed.values(), *self.unsent]

    def begin_anew(self) -> None:
        """Make all pending messages unsent, for a new channel, whose delivery tags begin at 1."""
        self.unsent, self.unconfirmed, self.next_tag = deque(self.pending()), {}, 1
