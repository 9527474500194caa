"""Publishing: send messages, and get a publisher confirm for each.

RabbitMQ answers each message: with basic.ack when it is stored, or with basic.nack if the queue can't take it now.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pika
from pika.channel import Channel

from task_queue.emitter.frame_encoder import Encoder
from task_queue.emitter.message import Message
from task_queue.emitter.silent_node import SilentNode
from task_queue.emitter.unconfirmed_window import REFILL, WINDOW, WINDOW_BYTES, Settled, Window
from task_queue.exceptions import QueueError
from task_queue.process.shutdown import Shutdown
from task_queue.rabbitmq.connection import Connection
from task_queue.rabbitmq.error_messages import WITHOUT_A_WORD, largest_size
from task_queue.rabbitmq.pika_internals import send_frames
from task_queue.settings import ConnectionSettings
from task_queue.terminal.blocked_output import drop_when
from task_queue.terminal.console import complain_in_background, do_in_background

SLOW_REPORT = 2.0  # seconds to wait while the background thread reports
FULL_QUEUE_PAUSE = 1.0  # seconds until we send again what a full queue has refused
PAUSES_UNTIL_RECONNECT = 5  # such pauses until we reconnect


class Publisher:
    """Publishes messages, and sends again what was not confirmed when the connection was lost: perhaps a second time.

    Change the window only with the loop's lock. Only its remove() is different: call that with the
    reporting lock.

    Args:
        settings: where to connect and publish.
        shutdown: of the program.
        report: called with settled messages, without the loop's lock, in this thread or the background printer's.

    Attributes:
        next_line: the next_line of the last message that was published.
    """

    _encoder: Encoder  # for the current channel; set in _on_ready()

    def __init__(
        self, settings: ConnectionSettings, shutdown: Shutdown, report: Callable[[list[Settled]], None]
    ) -> None:
        self.next_line: int | None = None
        self._window = Window()
        self._shutdown, self._report = shutdown, report
        self._reporting_lock = threading.Lock()
        self._largest = float("inf")  # bytes that RabbitMQ takes in one message, known after the first refusal
        self._is_paused = False  # because the queue is full
        self._pauses = 0  # in a row, since the last confirm
        self.connection = Connection(settings, shutdown, self._on_ready, self._on_lost, self._report_in_background)
        self._silent_node = SilentNode(self.connection, len(settings.nodes), self._expects_confirms)

    def publish(self, message: Message) -> None:
        """Give pika a message, which is sent in the next step of the loop. Waits only when the window is full.

        Raises:
            QueueError: the connection is lost, and reconnecting failed for good.
        """
        window = self._window
        with self.connection.loop:
            window.add(message)
            self.next_line = message.next_line
            self.connection.check()
            self._send()
        if window.exceeds(WINDOW - 1, WINDOW_BYTES - 1):
            self.wait_for_confirms(WINDOW - REFILL, WINDOW_BYTES // 2)

    def wait_for_confirms(self, messages: int = 0, size: int = 0, seconds: float = float("inf")) -> None:
        """Wait until the window has at most `messages` messages and `size` bytes, or the time is up.

        Raises:
            QueueError: the connection is lost, and reconnecting failed for good.
        """
        window, shutdown = self._window, self._shutdown

        def has_news() -> bool:
            return bool(window.settled) or shutdown.is_interrupt_due or not window.exceeds(messages, size)

        deadline = time.monotonic() + seconds
        while window.exceeds(messages, size) and (left := deadline - time.monotonic()) > 0:
            with self.connection.loop:
                self.connection.wait(has_news, left)
            self.report_settled()

    def pending(self) -> list[Message]:
        """Return the messages that are neither confirmed nor refused for good."""
        return self._window.pending()

    def report_settled(self) -> None:
        """Report the messages that were settled since the last call."""
        with self._shutdown.held():  # else Ctrl+C could leave the reporting lock taken
            # The background thread may be at it, as long as the output is blocked. Then it reports these, too. While
            # we wait for it, the keeper drives.
            self._report_settled(SLOW_REPORT)

    def _report_in_background(self) -> None:
        if self._window.settled:
            do_in_background(self._report_beside_main)

    def _report_beside_main(self) -> None:
        drop_when(lambda: self._shutdown.has_begun)  # else main would wait for the lock of a blocked report
        self._report_settled()

    def _report_settled(self, within: float = -1) -> None:  # seconds to wait for the lock; -1 is for ever
        if self._reporting_lock.acquire(timeout=within):
            try:
                if batch := list(self._window.settled):
                    self._report(batch)
                    # Only after the report: if the output is blocked, the window fills, and takes no new messages.
                    self._window.remove(batch)
            finally:
                self._reporting_lock.release()

    def _send(self) -> None:
        channel, window = self.connection.channel, self._window
        while window.unsent and channel is not None and not self._is_paused:
            message = window.unsent[0]
            if len(message.body) > self._largest:
                too_large = f"it has {len(message.body):,} bytes, and RabbitMQ takes {self._largest:,} at most"
                window.settled.append((window.unsent.popleft(), too_large))
                continue
            frames = self._encoder.frames(message)  # first: an error here must not leave a message half sent
            window.unsent.popleft()
            window.unconfirmed[window.next_tag] = message
            window.next_tag += 1
            send_frames(channel, frames)  # channel.basic_publish() would do, too, but is slower

    def _on_ready(self, channel: Channel) -> None:
        again = "; it will be declared again" if self.connection.rules.declared_by_us else ""
        gone = QueueError(f"Queue {self.connection.settings.queue} is gone{again}.")
        channel.add_on_return_callback(lambda *_: self.connection.drop(gone))
        channel.confirm_delivery(self._on_confirm)
        self._encoder = Encoder(
            self.connection.settings.queue, channel.channel_number, channel.connection.params.frame_max
        )
        self._window.reset_for_new_channel()
        self._is_paused = False
        self._silent_node.watch(channel)
        self._send()

    def _expects_confirms(self) -> bool:
        return bool(self._window.unconfirmed) and not self.connection.is_blocked

    def _on_confirm(self, frame: pika.frame.Method[pika.spec.Basic.Ack | pika.spec.Basic.Nack]) -> None:
        if self.connection.channel is None:  # we are dropping it, perhaps because this message was returned: not stored
            return
        unconfirmed, last = self._window.unconfirmed, frame.method.delivery_tag or 0
        tags = [last]
        if frame.method.multiple:
            tags = list(itertools.takewhile(lambda tag: tag <= last, unconfirmed))
        messages = [unconfirmed.pop(tag) for tag in tags if tag in unconfirmed]
        if messages:
            self._silent_node.answered(messages[-1])
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._pause_publishing(messages)
        else:
            self._window.settled.extend((message, None) for message in messages)
            self._pauses = 0
            self.connection.outage.success()

    def _pause_publishing(self, messages: list[Message]) -> None:
        self._window.take_back(messages)
        if not self._is_paused:
            self._is_paused = True
            channel = self.connection.channel
            self.connection.loop.ioloop.call_later(FULL_QUEUE_PAUSE, lambda: self._resume_publishing(channel))
            if self._pauses == 0:
                complain_in_background(" [*] The queue takes no tasks for now: is it full? Trying again ...")

    def _resume_publishing(self, channel: Channel | None) -> None:
        if channel is not self.connection.channel:  # this pause was an old channel's
            return
        self._is_paused = False
        self._pauses += 1
        if self._pauses % PAUSES_UNTIL_RECONNECT == 0:
            # In a cluster, a channel may be stuck at a dead node, and refuse all. A new one is not. Nothing is printed,
            # because most queues are just full. Source: https://github.com/rabbitmq/rabbitmq-server/pull/9221
            self.connection.drop(WITHOUT_A_WORD)
        self._send()

    def _on_lost(self, why: BaseException) -> None:
        self._largest = largest_size(why) or self._largest
