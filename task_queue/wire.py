"""Our pika connection: it gathers writes, tries all addresses of a host, and takes messages with any headers.

It overrides methods that pika has for its own adapters. If a later pika no longer calls one of them, only that one
improvement is lost; only write() needs one that is there. Tested with pika 1.3.2, 1.4.4 and its main branch of 2026-11.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pika
import pika.channel
import pika.frame
from pika.exceptions import ChannelWrongStateError
from pika.frame import Header
from pika.spec import FRAME_HEADER, FRAME_HEADER_SIZE, BasicProperties

from task_queue import outbox
from task_queue.aside import call_aside

GATHERED_BYTES = 64 * 1024  # larger pieces are slow: after each partial write pika copies the remainder


class WireConnection(pika.SelectConnection):
    """pika's connection, which gathers what is written until flush(), and reads messages with any headers."""

    _has_told = False
    _frame_buffer: Any  # pika's: what was received and not processed yet; bytes, or a bytearray in later versions

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._gathered = bytearray()
        super().__init__(*arguments, **named)

    def flush(self) -> None:
        """Give pika what was gathered, to send it in one piece."""
        if self._gathered:
            super()._adapter_emit_data(bytes(self._gathered))  # type: ignore[misc]  # not in the stubs
            self._gathered.clear()

    def close_somehow(self) -> None:
        """Close the connection, whatever state it is in."""
        # pika can close a connection that is not open yet, but raises an AssertionError then.
        with contextlib.suppress(AssertionError):
            if not (self.is_closing or self.is_closed):
                self.close()

    def abandon(self) -> None:
        """Close the socket of a connection that can't be closed cleanly."""
        with contextlib.suppress(Exception):
            self._transport.abort()  # type: ignore[attr-defined]
            self.ioloop.process_timeouts()

    def _adapter_connect_stream(self) -> None:
        # pika looks up a host's name in a new thread. call_aside() makes it a daemon, so that the process can end while
        # the lookup hangs.
        services = self._nbio  # type: ignore[attr-defined]
        look_up = services.getaddrinfo
        services.getaddrinfo = lambda **what: call_aside(lambda: look_up(**what))
        super()._adapter_connect_stream()  # type: ignore[misc]
        # Without this, an error at one of a host's addresses (no IPv6, no descriptor left) ends the search for one that
        # works. Source: https://github.com/pika/pika/blob/main/pika/adapters/utils/connection_workflow.py
        workflow = self._connection_workflow  # type: ignore[attr-defined]
        try_next = getattr(workflow, "_try_next_resolved_address", None)

        def try_until_one_works() -> None:
            try:
                try_next()  # type: ignore[misc]
            except Exception as error:
                workflow._connection_errors.append(error)
                with contextlib.suppress(Exception):
                    workflow._connector._sock.close()
                try_until_one_works()

        if try_next is not None:
            workflow._try_next_resolved_address = try_until_one_works

    def _adapter_emit_data(self, data: bytes) -> None:
        if len(data) > GATHERED_BYTES:  # as it is: a copy of a large message would take as much memory again
            self.flush()
            super()._adapter_emit_data(data)  # type: ignore[misc]
            return
        self._gathered += data
        if len(self._gathered) > GATHERED_BYTES:
            self.flush()

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> pika.channel.Channel:
        return HandingBackChannel(self, channel_number, on_open_callback)

    def _on_data_available(self, data_in: bytes) -> None:
        try:
            super()._on_data_available(data_in)  # type: ignore[misc]
        except Exception:
            buffer = bytes(self._frame_buffer)
            if is_decodable(buffer) or (read := without_headers(buffer)) is None:
                raise
            if not WireConnection._has_told:
                WireConnection._has_told = True
                outbox.complain(" [*] The headers of a task can't be read by pika; it is taken without them.")
            self._frame_buffer = self._frame_buffer[read[0] :]
            self._process_frame(read[1])  # type: ignore[attr-defined]
            self._on_data_available(b"")


class HandingBackChannel(pika.channel.Channel):
    """A channel that uses basic.nack to hand back what still arrives while a subscription is being cancelled.

    pika would reject it, and RabbitMQ 4.3 would count that as a failed try of a task that nobody has tried.
    """

    def _on_deliver(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        if method_frame.method.consumer_tag in self._cancelled:  # type: ignore[attr-defined]
            if self.is_open:
                self.basic_nack(method_frame.method.delivery_tag)
        else:
            super()._on_deliver(method_frame, header_frame, body)  # type: ignore[misc]


def write(channel: pika.channel.Channel, frames: list[bytes]) -> None:
    """Send frames that are encoded already.

    Raises:
        ChannelWrongStateError: the channel is not open.
    """
    if not channel.is_open:
        raise ChannelWrongStateError("Channel is not open.")
    channel.connection._output_marshaled_frames(frames)  # type: ignore[attr-defined]


def is_decodable(data: bytes) -> bool:
    """Tell whether pika can read the first frame; if so, an error had another cause."""
    try:
        pika.frame.decode_frame(data)
    except Exception:
        return False
    return True


def without_headers(data: bytes) -> tuple[int, Header] | None:
    """Read a content header frame, but skip its table of headers. Return the frame's size in bytes, and its content.

    Return None for any other frame. Source: https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, section 4.2.6.
    """
    kind, channel, size = data[0], int.from_bytes(data[1:3], "big"), int.from_bytes(data[3:7], "big")
    content = data[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + size]
    body_size, flags = int.from_bytes(content[4:12], "big"), int.from_bytes(content[12:14], "big")
    is_whole = data[FRAME_HEADER_SIZE + size : FRAME_HEADER_SIZE + size + 1] == b"\xce"
    if kind != FRAME_HEADER or not is_whole or not flags & BasicProperties.FLAG_HEADERS:
        return None
    start = 14
    for earlier in (BasicProperties.FLAG_CONTENT_TYPE, BasicProperties.FLAG_CONTENT_ENCODING):
        if flags & earlier:
            start += 1 + content[start]
    end = start + 4 + int.from_bytes(content[start : start + 4], "big")
    properties = BasicProperties()
    with contextlib.suppress(Exception):  # then without any properties
        properties.decode(
            (flags & ~BasicProperties.FLAG_HEADERS).to_bytes(2, "big") + content[14:start] + content[end:]
        )
    return FRAME_HEADER_SIZE + size + 1, Header(channel, body_size, properties)
