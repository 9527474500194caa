"""Our pika connection: it gathers what is written, and takes messages with any headers.

It overrides methods that pika has for its own adapters. If a later pika no longer calls one of them, only that one
improvement is lost; only write() needs one that is there. Tested with pika 1.3.2, 1.4.4 and its main branch of 2026-11.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from typing import Any

import pika
import pika.channel
import pika.frame
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from pika.exceptions import ChannelWrongStateError
from pika.spec import FRAME_HEADER, FRAME_HEADER_SIZE, BasicProperties

from task_queue.aside import Aside

GATHERED_BYTES = 64 * 1024  # larger pieces are slow: after each partial write pika copies the remainder


class WireConnection(pika.SelectConnection):
    """pika's connection, which gathers what is written until flush(), and reads messages with any headers."""

    _frame_buffer: Any  # pika's: what was received and not processed yet; bytes, or a bytearray in later versions

    def __init__(self, ioloop: IOLoop, node: pika.URLParameters, on_open: Any, on_gone: Any) -> None:
        self._gathered = bytearray()
        super().__init__(node, on_open, on_gone, on_gone, custom_ioloop=Services(ioloop))  # type: ignore[arg-type]

    def flush(self) -> None:
        """Give pika what was gathered, to send it in one piece."""
        if self._gathered:
            super()._adapter_emit_data(bytes(self._gathered))  # type: ignore[misc]  # not in the stubs
            self._gathered.clear()

    def abandon(self) -> None:
        """Close the socket of a connection that can't be closed cleanly."""
        with contextlib.suppress(Exception):
            self._transport.abort()  # type: ignore[attr-defined]
            self.ioloop.process_timeouts()

    def _adapter_emit_data(self, data: bytes) -> None:
        if len(data) > GATHERED_BYTES:  # as it is: a copy of a large message would take as much memory again
            self.flush()
            super()._adapter_emit_data(data)  # type: ignore[misc]
            return
        self._gathered += data
        if len(self._gathered) > GATHERED_BYTES:
            self.flush()

    def _read_frame(self) -> tuple[int, Any]:
        try:
            return super()._read_frame()  # type: ignore[misc, no-any-return]
        except Exception:
            # Headers that pika can't read, such as a time in milliseconds, would end each connection that gets the
            # message. So it is taken without them: a content header frame with an empty table of headers.
            # Source: https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, section 4.2.6
            data = bytes(self._frame_buffer)
            size = FRAME_HEADER_SIZE + int.from_bytes(data[3:7], "big")
            flags, start = int.from_bytes(data[19:21], "big"), 21
            if data[0] != FRAME_HEADER or not flags & BasicProperties.FLAG_HEADERS:
                raise
            for earlier in (BasicProperties.FLAG_CONTENT_TYPE, BasicProperties.FLAG_CONTENT_ENCODING):
                if flags & earlier:
                    start += 1 + data[start]
            end = start + 4 + int.from_bytes(data[start : start + 4], "big")
            content = data[FRAME_HEADER_SIZE:start] + bytes(4) + data[end:size]
            readable = data[:3] + len(content).to_bytes(4, "big") + content + data[size : size + 1]
            return size + 1, pika.frame.decode_frame(readable)[1]


class Services(SelectorIOServicesAdapter):
    """What pika needs of an I/O loop; but a look-up of a host that hangs does not keep the process from ending."""

    def getaddrinfo(self, *arguments: Any, **named: Any) -> Any:
        """Begin a look-up. pika's thread for it is a daemon if the thread that starts it is one."""
        begun: Future[Any] = Future()

        def begin() -> None:
            try:
                begun.set_result(super(Services, self).getaddrinfo(*arguments, **named))
            except Exception as error:
                begun.set_exception(error)

        Aside(begin, "look-up").start()
        return begun.result()


def write(channel: pika.channel.Channel, frames: list[bytes]) -> None:
    """Send frames that are encoded already.

    Raises:
        ChannelWrongStateError: the channel is not open.
    """
    if not channel.is_open:
        raise ChannelWrongStateError("Channel is not open.")
    channel.connection._output_marshaled_frames(frames)  # type: ignore[attr-defined]
