"""Connections that end in odd ways, at each step: the next one is made, and the work goes on."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from harness import Scripts, eventually
from in_process import Emitter, printed, work
from pika import frame, spec
from pika.adapters.select_connection import IOLoop
from scripted_server import Answer, Got, Server, Session

from listening_worker import listen
from task_queue.worker.task import Task


def sends(*pieces: bytes, then: Answer = Session.fall_silent) -> Answer:
    def end(session: Session, got: Got | None) -> None:
        session.write(b"".join(pieces))
        then(session, got)

    return end


def close_the_channel(session: Session, got: Got | None) -> None:
    session.send(spec.Channel.Close(404, "NOT_FOUND - gone", 0, 0))
    if got and got.name == "Channel.Close":  # the two have crossed
        session.answer(got)


WITHOUT_ARGUMENTS = struct.pack(">BHLHHB", spec.FRAME_METHOD, 0, 4, 10, 60, spec.FRAME_END)
SHUTDOWN = spec.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0)
ENDS: dict[str, Answer] = {
    "it hangs up": Session.hang_up,
    "it falls silent": Session.fall_silent,
    "a body without its header": sends(frame.Body(1, b"task").marshal()),
    "it closes the connection": lambda session, _: session.send(SHUTDOWN),
    "it closes the channel": close_the_channel,
    "it resets the connection": Session.reset,
    "half a frame": sends(WITHOUT_ARGUMENTS[:-3], then=Session.hang_up),
    "a method without its arguments": sends(WITHOUT_ARGUMENTS),
    "what is not AMQP": sends(b"HTTP/1.1 400 Bad Request\r\n\r\n", then=Session.hang_up),
}
FEW_ENDS = [*ENDS][:5]  # of each kind
HANDSHAKE = ["ProtocolHeader", "Connection.StartOk", "Connection.Open"]
OPENING = ["Channel.Open", "Queue.Declare", "Queue.Declare 2"]  # the first time, and the second
READY = {"emitter": ["Confirm.Select", "Basic.Publish"], "worker": ["Basic.Qos", "Basic.Consume"]}
SETTLING = ["Basic.Ack", "Basic.Reject", "Basic.Cancel"]

QUICK = "?heartbeat=1&stack_timeout=10"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between connections go by twenty times as fast, and silence is noticed as soon.

    A busy machine may lose a connection too many.
    """
    call_later = IOLoop.call_later
    monkeypatch.setattr(IOLoop, "call_later", lambda self, delay, callback: call_later(self, delay / 20, callback))


def have_end(server: Server, step: str, end: str, only_once: bool = True) -> None:
    """Have a connection end instead of an answer to a method; after `METHOD 2`, to the second from now on."""

    def answer(session: Session, got: Got) -> None:
        left[0] -= 1
        is_the_end = left[0] == 0 if only_once else left[0] <= 0
        (ENDS[end] if is_the_end else Session.answer)(session, got)

    name, _, number = step.partition(" ")
    left = [int(number or 1)]
    server.on(name, answer)


def cases(ends: list[str], *groups: list[str]) -> list[tuple[str, str]]:
    """Return each end with the steps at which it can come: a channel is closed only once there is one."""
    steps = [(step, group is HANDSHAKE) for group in groups for step in group]
    return [(end, step) for end in ends for step, is_early in steps if not is_early or "channel" not in end]


@contextlib.contextmanager
def busy(side: str, server: Server) -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """Run an emitter's or a worker's side in this process. Gives what checks that it reconnects, and does a task."""

    def fail_first(task: Task) -> None:
        assert task.redelivered

    def does_a_task() -> None:
        if side == "worker":
            server.put(b"task")
            eventually(server.is_done, "the task is done")
        else:
            emitter.send("task")
            emitter.settle()

    @contextlib.contextmanager
    def reconnects(case: str) -> Iterator[None]:
        times = out.getvalue().count("Reconnecting") + 1
        yield
        eventually(lambda: out.getvalue().count("Reconnecting") >= times, case)
        does_a_task()

    where, stop = {"url": server.url + QUICK, "queue": "tasks"}, threading.Event()
    worker = threading.Thread(target=listen, args=[fail_first], kwargs={**where, "stop": stop})
    with printed() as out, contextlib.ExitStack() as stack:
        if side == "worker":
            worker.start()
            stack.callback(worker.join)
            stack.callback(stop.set)
        else:
            emitter = Emitter(**where)
            stack.enter_context(contextlib.closing(emitter.connection))
        does_a_task()
        yield reconnects


@pytest.mark.parametrize(
    ("side", "ends"), [("emitter", FEW_ENDS), *(("worker", [*ENDS][part::3]) for part in range(3))]
)
def test_an_odd_end_of_a_later_connection_is_said_and_another_one_is_made(
    server: Server, side: str, ends: list[str]
) -> None:
    # What both sides do, and which odd bytes pika does not take, is the same in both: a worker tries all that.
    chosen = cases(ends, READY[side])
    if side == "worker":
        server.version = "3.10.8"  # where it cancels its subscription after a failure
        chosen += cases(ends, HANDSHAKE, OPENING) + cases([end for end in ends if end in FEW_ENDS], SETTLING)
    with busy(side, server) as reconnects:
        for end, step in chosen:
            with reconnects(f"{step}: {end}"):
                have_end(server, step, end)
                server.sessions[-1].hang_up()
        for end in ends:
            with reconnects(f"idle: {end}"):
                ENDS[end](server.sessions[-1], None)
        have_end(server, "Connection.Close", "a body without its header", only_once=False)


def test_a_worker_goes_on_when_its_connection_ends_in_odd_ways_around_a_task(
    at_server: Scripts, server: Server
) -> None:
    def perform(_: Task) -> None:
        if ends:
            before = len(server.sessions)
            ENDS[ends.pop()](server.sessions[-1], None)
            if ends:  # else its ack goes into what is lost, without anybody having noticed
                server.session(before)  # there is another one

    ends = [*FEW_ENDS]
    have_end(server, "Channel.Close", "it hangs up", only_once=False)
    server.put(b"task")
    lines = work(at_server, perform, url=server.url + QUICK)
    assert f" [!] The connection to RabbitMQ at {server.at} was lost (" in "\n".join(lines)
    assert f" [!] RabbitMQ at {server.at} closed the connection (CONNECTION_FORCED - shutdown)." in lines
    lost = " [!] Done, but its acknowledgement is lost: RabbitMQ will hand this task out again."
    assert [lines.count(lost), lines.count(" [x] Done.")] == [len(FEW_ENDS), 1]


def test_burst_goes_on_when_the_connection_ends_in_its_look_at_the_queue(at_server: Scripts, server: Server) -> None:
    def answer(session: Session, got: Got) -> None:
        if session.consumer and ends:
            server.tasks.extend([(b"task", False)] if len(ends) > 1 else [])  # meanwhile; at the last look, nothing
            ENDS[ends.pop(0)](session, got)
        else:
            session.answer(got)

    ends = [*FEW_ENDS, FEW_ENDS[0]]
    server.on("Queue.Declare", answer)
    lines = work(at_server, lambda _: None, url=server.url + QUICK)
    assert lines.count(" [x] Done.") >= len(FEW_ENDS)
    assert not ends
