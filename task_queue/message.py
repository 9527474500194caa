"""A task as a message to send: its id, its properties, and the frames in which it goes to RabbitMQ."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import pika
import pika.frame

BATCH = 100  # messages that may be published together; a tenth of the window of those that are not confirmed
IDS = 256  # made from one call to the system, which is slow
SAMPLE_ID = "00000000-0000-4000-8000-000000000000"  # stands where each message has its own, which is as long
PROPERTIES = pika.BasicProperties(
    content_type="text/plain",
    content_encoding="utf-8",
    delivery_mode=pika.DeliveryMode.Persistent.value,
    message_id=SAMPLE_ID,
    timestamp=0,
)
FRAME = struct.Struct(">BHI")  # how each frame begins: its kind, its channel, and the size of its content
END = b"\xce"  # how each ends
SIZE = slice(FRAME.size + 4, FRAME.size + 12)  # of the body, in a header frame: behind the class and the weight
_ids: list[str] = []


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


def new_message(
    text: str | bytes, line: int | None = None, after: int | None = None, next_line: int | None = None
) -> Message:
    """Return a task as a message. As bytes, its text is in UTF-8."""
    body = text.encode() if isinstance(text, str) else text
    return Message(body, new_id(), int(time.time()), line, after, next_line)


def new_id() -> str:
    """Return a random UUID. uuid.uuid4() takes three times as long."""
    while True:
        try:
            return _ids.pop()
        except IndexError:
            _ids.extend(random_uuids(IDS))


def random_uuids(number: int) -> Iterator[str]:
    """Make so many UUIDs of version 4. Source: https://www.rfc-editor.org/rfc/rfc9562#section-5.4."""
    digits = os.urandom(16 * number).hex()
    for at in range(0, len(digits), 32):
        each = digits[at : at + 32]
        variant = "89ab"[int(each[16], 16) % 4]
        yield f"{each[:8]}-{each[8:12]}-4{each[13:16]}-{variant}{each[17:20]}-{each[20:]}"


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_ids.clear)  # the parent will use these; a task may fork, and send tasks, too


class Encoder:
    """Encodes messages as pika's `Channel.basic_publish` does, which would do all of it anew for each of them.

    A message is a method frame (basic.publish), a header frame (the size of the body, and the properties), and body
    frames. Only these parts differ between messages:

        method frame | header frame: ... SIZE ... ID, TIME, end | body frame: size, a part of the BODY, end | ...

    Args:
        queue: its name: the default exchange "" routes a message to the queue that its routing key names.
        channel: the number of the channel.
        frame_max: bytes of the largest frame that RabbitMQ accepts.

    Source: https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, sections 2.3.5 and 4.2.
    """

    def __init__(self, queue: str, channel: int, frame_max: int) -> None:
        # mandatory: without it, RabbitMQ confirms a message for a queue that is gone.
        publish = pika.spec.Basic.Publish(exchange="", routing_key=queue, mandatory=True)
        header = pika.frame.Header(channel, 0, PROPERTIES).marshal()
        self._begin = pika.frame.Method(channel, publish).marshal() + header[: SIZE.start]
        self._middle, _, end = header[SIZE.stop :].partition(SAMPLE_ID.encode())
        if len(end) != 8 + len(END):  # only the timestamp is behind the id
            raise AssertionError("pika encodes properties in another way than AMQP says")
        self._channel = channel
        self._largest_part = frame_max - FRAME.size - len(END)

    def frames(self, message: Message) -> list[bytes]:
        """Return the bytes of a message, in one or several pieces."""
        body = message.body
        before = (
            self._begin,
            len(body).to_bytes(8, "big"),
            self._middle,
            message.message_id.encode(),
            message.timestamp.to_bytes(8, "big"),
            END,
        )
        if 0 < len(body) <= self._largest_part:
            return [b"".join((*before, FRAME.pack(pika.spec.FRAME_BODY, self._channel, len(body)), body, END))]
        return [b"".join(before), *self._body_frames(body)]

    def _body_frames(self, body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), self._largest_part):
            part = body[start : start + self._largest_part]
            yield b"".join((FRAME.pack(pika.spec.FRAME_BODY, self._channel, len(part)), part, END))
