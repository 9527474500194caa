"""A task as a message to send: its id, its properties, and the frames in which it goes to RabbitMQ."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import pika
import pika.frame

IDS = 256  # made from one call to the system, which is slow
SAMPLE_ID = "00000000-0000-4000-8000-000000000000"
PROPERTIES = pika.BasicProperties(
    content_type="text/plain",
    content_encoding="utf-8",
    delivery_mode=pika.DeliveryMode.Persistent.value,
    message_id=SAMPLE_ID,
    timestamp=0,
)
SIZE = slice(11, 19)  # of the body, in a header frame: behind the frame's own header, the class and the weight
NOT_BODY = 8  # bytes of a frame that are not its content
_ids: list[str] = []


class Message(NamedTuple):
    """One task to send.

    Attributes:
        body: its text in UTF-8.
        message_id: stays the same when it is sent again.
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
    body: bytes, line: int | None = None, after: int | None = None, next_line: int | None = None
) -> Message:
    """Return a task as a message. Its body is text in UTF-8."""
    return Message(body, new_id(), int(time.time()), line, after, next_line)


def new_id() -> str:
    """Return a random UUID."""
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
    os.register_at_fork(after_in_child=_ids.clear)  # because the parent will use them


class Encoder:
    """Encodes messages for a queue: what all have in common is encoded by pika, and only once.

    The frames are those that pika's `Channel.basic_publish` sends, with `mandatory=True`: without that, RabbitMQ
    confirms a message for a queue that is gone.

    Args:
        queue: its name.
        channel: the number of the channel.
        frame_max: bytes of the largest frame that RabbitMQ accepts; 0 for no limit.

    Source: https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, sections 2.3.5 and 4.2.6.
    """

    def __init__(self, queue: str, channel: int, frame_max: int) -> None:
        publish = pika.spec.Basic.Publish(exchange="", routing_key=queue, mandatory=True)
        header = pika.frame.Header(channel, 0, PROPERTIES).marshal()
        self._begin = pika.frame.Method(channel, publish).marshal() + header[: SIZE.start]
        self._middle, _, end = header[SIZE.stop :].partition(SAMPLE_ID.encode())
        self._end = end[8:]  # after the timestamp
        self._channel = channel
        self._largest = (frame_max or pika.spec.FRAME_MAX_SIZE) - NOT_BODY

    def frames(self, message: Message) -> Iterator[bytes]:
        """Yield the bytes of a message: in one piece if it is small, else in one for each of its frames."""
        body, size = message.body, len(message.body)
        begin = b"%b%b%b%b%b%b" % (
            self._begin,
            size.to_bytes(8, "big"),
            self._middle,
            message.message_id.encode(),
            message.timestamp.to_bytes(8, "big"),
            self._end,
        )
        for start in range(0, size, self._largest):
            part = body[start : start + self._largest]
            head = struct.pack(">BHI", pika.spec.FRAME_BODY, self._channel, len(part))
            yield b"%b%b%b\xce" % (begin, head, part)
            begin = b""
        if begin:  # the body is empty
            yield begin
