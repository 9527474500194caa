"""A stand-in for RabbitMQ, which plays what no broker can be made to play on demand; pika does the encoding.

Left alone it is a well-mannered RabbitMQ with one queue. A test scripts what it does instead, by the names of methods:

    server.put(b"task")                                             it waits there, and goes to a consumer
    server.got("Basic.Publish")                                     what was published, with bodies and times
    server.on("Basic.Publish", nothing)                             it never confirms
    server.on("Connection.Open", Session.hang_up, connection=1)     the second connection ends there
    server.session(0).send(spec.Basic.Ack(4, multiple=True))        at any time, from the test's own thread
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pika
from harness import eventually
from pika import frame, spec

FRAME_SIZE = 131072  # the largest, as RabbitMQ has it
CAPABILITIES = dict.fromkeys(("publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked"), True)
PLAIN_ANSWERS = {
    "Connection.StartOk": spec.Connection.Tune(2047, FRAME_SIZE, 60),
    "Connection.Open": spec.Connection.OpenOk(),
    "Channel.Open": spec.Channel.OpenOk(),
    "Channel.Close": spec.Channel.CloseOk(),
    "Confirm.Select": spec.Confirm.SelectOk(),
    "Basic.Get": spec.Basic.GetEmpty(),
}


class Got(NamedTuple):
    """A method that a client sent, with the message that came with it. The protocol's header counts as one."""

    name: str  # such as Basic.Publish
    method: Any
    session: Session
    properties: Any
    body: bytes
    at: float  # on the monotonic clock


Answer = Callable[["Session", Got], object]


def nothing(_session: Session, _got: Got) -> None:
    """Leave a client without an answer, on a connection that lives."""


def refuse(session: Session, _got: Got) -> None:
    """Refuse the password, which stands where the answer to Connection.StartOk does."""
    session.send(spec.Connection.Close(403, "ACCESS_REFUSED - Login was refused", 0, 0))


class Session:
    """One connection of a client's. `hang_up`, `reset` and `fall_silent` can stand where an answer does."""

    def __init__(self, server: Server, connected: socket.socket, number: int) -> None:
        self.server, self.number, self.began = server, number, time.monotonic()
        self.channel = 1  # the last one that the client used
        self.consumer: str | None = None  # its tag
        self.prefetch = 0  # no limit, as in AMQP
        self.in_hand: dict[int, tuple[bytes, bool]] = {}  # by delivery tag
        self._socket = connected
        self._is_silent = False
        self._published, self._delivered = itertools.count(1), itertools.count(1)
        self._writing = threading.Lock()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def got(self, name: str) -> list[Got]:
        return [got for got in self.server.got(name) if got.session is self]

    def send(self, method: Any, properties: pika.BasicProperties | None = None, body: bytes = b"") -> None:
        channel = 0 if method.NAME.startswith("Connection.") else self.channel
        frames: list[Any] = [frame.Method(channel, method)]
        if properties is not None:
            pieces = [body[start : start + FRAME_SIZE - 8] for start in range(0, len(body), FRAME_SIZE - 8)]
            frames += [frame.Header(channel, len(body), properties), *(frame.Body(channel, part) for part in pieces)]
        self.write(b"".join(each.marshal() for each in frames))

    def deliver(self, body: bytes, redelivered: bool = False, **properties: Any) -> None:
        """Hand out a task, whether it is the client's turn or not."""
        tag = next(self._delivered)
        self.in_hand[tag] = body, redelivered
        deliver = spec.Basic.Deliver(self.consumer, tag, redelivered, "", "tasks")
        self.send(deliver, pika.BasicProperties(**properties), body)

    def gets(self, body: bytes, left: int) -> None:
        tag = next(self._delivered)
        self.in_hand[tag] = body, False
        self.send(spec.Basic.GetOk(tag, False, "", "tasks", left), pika.BasicProperties(), body)

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError), self._writing:  # the client may be gone
            self._socket.sendall(data)

    def hang_up(self, _got: Got | None = None) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def reset(self, _got: Got | None = None) -> None:
        """End the connection as the machine of a RabbitMQ that was killed does."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.shutdown(socket.SHUT_RD)  # so that _run() closes it

    def fall_silent(self, _got: Got | None = None) -> None:
        """Take in everything, and send nothing any more, not even heartbeats."""
        self._is_silent, self.consumer = True, None

    def answer(self, got: Got) -> None:
        if got.name in PLAIN_ANSWERS:
            self.send(PLAIN_ANSWERS[got.name])
        elif (method := getattr(self, "_" + got.name.replace(".", "_").lower(), None)) is not None:
            method(got.method)

    def _run(self) -> None:
        frames = self._frames()
        try:
            for it in frames:
                method, properties, body = getattr(it, "method", it), None, b""
                self.channel = getattr(it, "channel_number", 0) or self.channel
                if isinstance(method, spec.Basic.Publish):
                    head = next(frames)
                    properties = head.properties
                    while len(body) < head.body_size:
                        body += next(frames).fragment
                got = Got(method.NAME, method, self, properties, body, time.monotonic())
                with self.server.lock:
                    self.server.received.append(got)
                    if not self._is_silent:
                        self.server.answer_to(got)(self, got)
        except (OSError, StopIteration):  # the end of the connection, which may be in the middle of a message
            pass
        except Exception as error:
            self.server.errors.append(error)
        finally:
            self._socket.close()
            self.consumer = None
            self.server.put_back(self)

    def _frames(self) -> Iterator[Any]:
        data = b""
        while piece := self._socket.recv(65536):
            data += piece
            while (decoded := frame.decode_frame(data))[1] is not None:
                data = data[decoded[0] :]
                if not isinstance(decoded[1], frame.Heartbeat):
                    yield decoded[1]
                elif not self._is_silent:
                    self.write(frame.Heartbeat().marshal())

    def _protocolheader(self, _: Any) -> None:
        properties = {"product": "RabbitMQ", "version": self.server.version, "capabilities": CAPABILITIES}
        self.send(spec.Connection.Start(0, 9, properties, "PLAIN", "en_US"))

    def _connection_close(self, _: Any) -> None:
        self.send(spec.Connection.CloseOk())
        self.hang_up()

    _connection_closeok = hang_up

    def _queue_declare(self, method: spec.Queue.Declare) -> None:
        self.send(spec.Queue.DeclareOk(method.queue, *self.server.counts(method.queue)))

    def _basic_publish(self, _: Any) -> None:
        self.send(spec.Basic.Ack(next(self._published)))

    def _basic_qos(self, method: spec.Basic.Qos) -> None:
        self.prefetch = method.prefetch_count
        self.send(spec.Basic.QosOk())

    def _basic_consume(self, method: spec.Basic.Consume) -> None:
        self.consumer = method.consumer_tag
        self.send(spec.Basic.ConsumeOk(self.consumer))
        self.server.hand_out()

    def _basic_cancel(self, method: spec.Basic.Cancel) -> None:
        self.consumer = None
        self.send(spec.Basic.CancelOk(method.consumer_tag))

    def _basic_ack(self, method: Any) -> None:
        body, _ = self.in_hand.pop(method.delivery_tag)
        if getattr(method, "requeue", False):
            self.server.tasks.appendleft((body, True))
        self.server.hand_out()

    _basic_reject = _basic_nack = _basic_ack


class Server:
    """Listens on a port of its own until it is closed. Stands in for harness.Broker where Scripts want one."""

    def __init__(self) -> None:
        self.version = "4.3.6"  # which it says to be
        self.sessions: list[Session] = []
        self.received: list[Got] = []
        self.tasks: deque[tuple[bytes, bool]] = deque()  # that wait, and whether they were handed out before
        self.errors: list[Exception] = []  # of clients that speak no AMQP, or of a test's own answers
        self.lock = threading.RLock()  # of whoever answers
        self._answers: dict[tuple[str, int | None], Answer] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.at = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"amqp://guest:guest@{self.at}/%2F"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def on(self, name: str, answer: Answer, connection: int | None = None) -> None:
        """Answer a method in another way than RabbitMQ: on all connections, or on one of them, from 0."""
        self._answers[name, connection] = answer

    def answer_to(self, got: Got) -> Answer:
        everywhere = self._answers.get((got.name, None), Session.answer)
        return self._answers.get((got.name, got.session.number), everywhere)

    def got(self, name: str) -> list[Got]:
        return [got for got in [*self.received] if got.name == name]

    def gets(self, name: str, times: int = 1) -> list[Got]:
        """Wait until so many have come under that name, and return them."""
        return eventually(lambda: len(got := self.got(name)) >= times and got, f"{times} x {name}")

    def session(self, number: int) -> Session:
        eventually(lambda: len(self.sessions) > number, f"connection {number}")
        return self.sessions[number]

    def put(self, *bodies: bytes) -> None:
        with self.lock:
            self.tasks += [(body, False) for body in bodies]
            self.hand_out()

    def put_back(self, session: Session) -> None:
        with self.lock:
            self.tasks.extendleft((body, True) for body, _ in reversed([*session.in_hand.values()]))
            session.in_hand.clear()
            self.hand_out()

    def hand_out(self) -> None:
        """Hand out what waits to whom the prefetch allows it."""
        for session in self.sessions:
            while self.tasks and session.consumer and not 0 < session.prefetch <= len(session.in_hand):
                session.deliver(*self.tasks.popleft())

    def counts(self, _queue: str) -> tuple[int, int]:
        return len(self.tasks), sum(session.consumer is not None for session in self.sessions)

    def is_done(self) -> bool:
        """Tell whether no task waits, or is in anybody's hand."""
        with self.lock:
            return not self.tasks and not any(session.in_hand for session in self.sessions)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for session in self.sessions:
            session.hang_up()
            session.thread.join()

    def _accept(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while True:
                connected, _ = self._listener.accept()
                with self.lock:
                    self.sessions.append(Session(self, connected, len(self.sessions)))


def takes_up_to(size: int) -> Answer:
    """Confirm messages of so many bytes; close the channel for a larger one, and take nothing there any more."""

    def answer(session: Session, got: Got) -> None:
        too_large = f"PRECONDITION_FAILED - message size {len(got.body)} is larger than configured max size {size}"
        if len(got.body) > size:
            session.send(spec.Channel.Close(406, too_large, 60, 40))
        elif all(len(each.body) <= size for each in session.got("Basic.Publish")):
            session.answer(got)

    return answer


def bodies(server: Server) -> list[str]:
    """Return the tasks that were published there."""
    return [got.body.decode() for got in server.got("Basic.Publish")]
