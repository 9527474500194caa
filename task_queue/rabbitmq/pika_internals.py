"""What we change inside pika: it gathers what is written, accepts headers that it can't decode, and sends our frames.

This is the only file that uses what is private to pika. If a later pika does not call our overrides, all works, but
slower, and a message with a header that pika can't decode ends the connection. What send_frames() and unsent_bytes()
use must be there. Tested with pika 1.3.2, 1.4.4 and its main branch of 2026-11.
"""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import Future
from typing import Any

import pika
import pika.channel
import pika.data
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from pika.exceptions import ChannelWrongStateError

from task_queue.signal_free_thread import SignalFreeThread
from task_queue.windows import WINDOWS

if not WINDOWS:
    import fcntl
    import termios

GATHERED_BYTES = 64 * 1024  # more is slower: when the system takes only a part, pika copies the rest


def _decode_table(data: bytes, offset: int, decode: Any = pika.data.decode_table) -> tuple[dict[str, Any], int]:
    """Return a table and where it ends, as pika does; or an empty one, if pika can't read it."""
    try:
        return decode(data, offset)  # type: ignore[no-any-return]
    except Exception:
        return {}, offset + 4 + int.from_bytes(data[offset : offset + 4], "big")  # it begins with its length


# Headers that pika can't read, such as a time in milliseconds, would end each connection that gets the message.
pika.data.decode_table = _decode_table  # type: ignore[assignment]


class PikaConnection(pika.SelectConnection):
    """pika's connection, which gathers what is written until flush(). What is not sent when it is lost, is gone.

    Tutorials have a BlockingConnection, which waits for each answer. Calls of a SelectConnection return at once, and
    pika calls our callbacks when RabbitMQ has answered.
    """

    def __init__(self, ioloop: IOLoop, node: pika.URLParameters, on_open: Any, on_gone: Any) -> None:
        self._gathered = bytearray()
        super().__init__(node, on_open, on_gone, on_gone, custom_ioloop=IOServices(ioloop))  # type: ignore[arg-type]

    def flush(self) -> None:
        """Give pika what was gathered, to send it in one piece."""
        if self._gathered:
            super()._adapter_emit_data(bytes(self._gathered))  # type: ignore[misc]  # not in the stubs
            self._gathered.clear()

    def abort(self) -> None:
        """Close the socket of a connection that can't be closed cleanly."""
        with contextlib.suppress(Exception):
            self._transport.abort()  # type: ignore[attr-defined]
            # abort() only plans it, for the next step, and there may be none: so do now what is due. A timer may have
            # called this: pika takes those that are due off its heap first, and so calls none twice. What the others
            # send is lost, and sent again on the next connection.
            self.ioloop.process_timeouts()

    def _adapter_emit_data(self, data: bytes) -> None:  # pika calls this for all that it writes
        if len(data) > GATHERED_BYTES:  # not gathered: a copy would take as much memory again
            self.flush()
            super()._adapter_emit_data(data)  # type: ignore[misc]
            return
        self._gathered += data
        if len(self._gathered) > GATHERED_BYTES:
            self.flush()


class IOServices(SelectorIOServicesAdapter):
    """What pika needs of an I/O loop; but a look-up of a host that hangs does not block the end of the process."""

    def getaddrinfo(self, *arguments: Any, **named: Any) -> Any:
        """Begin a look-up. pika does that in a thread, which holds up no exit if a daemon starts it: so one does."""
        begun: Future[Any] = Future()

        def begin() -> None:
            try:
                begun.set_result(super(IOServices, self).getaddrinfo(*arguments, **named))
            except Exception as error:
                begun.set_exception(error)

        SignalFreeThread(begin, "look-up").start()
        return begun.result()


def send_frames(channel: pika.channel.Channel, frames: list[bytes]) -> None:
    """Send frames that are encoded already.

    Raises:
        ChannelWrongStateError: the channel is not open.
    """
    if not channel.is_open:
        raise ChannelWrongStateError("Channel is not open.")
    channel.connection._output_marshaled_frames(frames)  # type: ignore[attr-defined]


def unsent_bytes(channel: pika.channel.Channel) -> int:
    """Return how many bytes wait for RabbitMQ's machine to take them: in pika, and on Linux also in the system."""
    transport: Any = channel.connection._transport  # type: ignore[attr-defined]
    unsent: int = transport.get_write_buffer_size()
    if not WINDOWS:
        with contextlib.suppress(OSError):  # other systems than Linux tell nothing of a socket
            waiting = fcntl.ioctl(transport._sock.fileno(), termios.TIOCOUTQ, bytes(4))
            unsent += int.from_bytes(waiting, sys.byteorder)
    return unsent
