"""Messages with headers as other clients write them, also those that pika can neither write nor read."""

import contextlib
import struct
from collections.abc import Iterator

import pika
import pytest
from harness import Scripts
from pika.adapters.blocking_connection import BlockingChannel


@contextlib.contextmanager
def channel_to(scripts: Scripts) -> Iterator[BlockingChannel]:
    """A channel of another client, whose messages are confirmed one by one."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(scripts.broker.url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


def field(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + value


def long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


# Values of each type that RabbitMQ knows, as bytes. Source: https://www.rabbitmq.com/amqp-0-9-1-errata#section_3
IN_MILLISECONDS = b"T" + struct.pack(">Q", 1_763_795_000_000)
FIELDS = [
    *(b"b\xff", b"B\xff", b"s\xff\xfe", b"u\xff\xfe", b"I\xff\xff\xff\xfe", b"i\xff\xff\xff\xfe", b"l" + b"\xff" * 8),
    *(b"f" + struct.pack(">f", 1.5), b"d" + struct.pack(">d", 1e300), b"D\x02\x00\x00\x01\x00"),
    *(b"S" + long(b"text"), b"x" + long(b"\xff\x00"), b"T" + struct.pack(">Q", 1_763_795_000), IN_MILLISECONDS),
    *(b"A" + long(b"t\x01" + b"d" + struct.pack(">d", 0.1)), b"F" + long(field(b"k", b"V")), b"t\x01", b"V"),
]
NESTED = b"V"
for _ in range(3000):
    NESTED = b"F" + long(field(b"k", NESTED))


def send_with_table(scripts: Scripts, queue: str, body: bytes, table: bytes) -> None:
    """Send a message with a table of headers that pika would not write."""

    def encode(pieces: list[bytes], _table: object) -> int:
        pieces.append(long(table))
        return len(pieces[-1])

    with channel_to(scripts) as channel, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pika.data.encode_table", encode)
        properties = pika.BasicProperties("text/odd", None, {"any": 0}, priority=9, message_id="an id", user_id="guest")
        channel.basic_publish("", queue, body, properties)
