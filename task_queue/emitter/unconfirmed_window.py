"""The window: how many messages may be unconfirmed, and which ones are unsent, unconfirmed or settled."""

from __future__ import annotations

from collections import deque
from typing import Optional

from task_queue.emitter.message import Message

WINDOW = 1000  # messages; a larger window is hardly faster, and more must be sent again after a lost connection
WINDOW_BYTES = 16 * 1024 * 1024  # so that large messages do not fill the memory
REFILL = 250  # confirms after which a full window takes new messages; with 500, RabbitMQ would run out of work

# A message, and None if it is confirmed, else why RabbitMQ refuses it.
Settled = tuple[Message, Optional[str]]


class Window:
    """The messages that were given to publish(), and whose result has not been reported yet.

    Each is in exactly one of the three collections: unsent, unconfirmed, settled.
    """

    def __init__(self) -> None:
        self.unsent: deque[Message] = deque()  # there is no connection, or the queue is full
        self.unconfirmed: dict[int, Message] = {}  # by delivery tag, in the order of publishing
        # Added to with the loop's lock, copied and taken from with the reporting lock: each is one step of a deque. A
        # comprehension over it would not be.
        self.settled: deque[Settled] = deque()
        self.next_tag = 1
        # Only the main thread changes the two "in" counters; only who holds the publisher's reporting lock changes the
        # two "out" counters. So exceeds() needs no lock.
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = 0

    def add(self, message: Message) -> None:
        """Take in a message that is to be sent."""
        self.unsent.append(message)
        self.messages_in += 1
        self.bytes_in += len(message.body)

    def remove(self, reported: list[Settled]) -> None:
        """Remove the first settled messages, after they were reported."""
        for _ in reported:
            self.settled.popleft()
        self.messages_out += len(reported)
        self.bytes_out += sum(len(message.body) for message, _ in reported)

    def exceeds(self, messages: int, size: int) -> bool:
        """Tell whether there are more than `messages` messages, or more than `size` bytes in them."""
        return self.messages_in - self.messages_out > messages or self.bytes_in - self.bytes_out > size

    def pending(self) -> list[Message]:
        """Return the messages that are neither confirmed nor refused for good, in the order in which to send them."""
        return in_order(*self.unconfirmed.values(), *self.unsent)

    def take_back(self, messages: list[Message]) -> None:
        """Make messages unsent again that RabbitMQ does not take for now."""
        self.unsent = deque(in_order(*messages, *self.unsent))

    def reset_for_new_channel(self) -> None:
        """Make all pending messages unsent, for a new channel, where delivery tags begin at 1."""
        self.unsent, self.unconfirmed, self.next_tag = deque(self.pending()), {}, 1


def in_order(*messages: Message) -> list[Message]:
    """Return messages in the order in which they were made; their ids are numbered."""
    return sorted(messages, key=lambda message: message.message_id)
