"""Connections that end, at each step and in each way: the next one is made, and the work goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from harness import Scripts, eventually
from in_process import emitting, work, working
from pika import spec
from pika.adapters.select_connection import IOLoop
from scripted_server import Answer, Got, Server, Session

from task_queue.worker.task import Task


def close_the_channel(session: Session, got: Got | None) -> None:
    session.send(spec.Channel.Close(404, "NOT_FOUND - gone", 0, 0))
    if got and got.name == "Channel.Close":  # the two have crossed
        session.answer(got)


SHUTDOWN = spec.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0)
ENDS: dict[str, Answer] = {
    "it hangs up": Session.hang_up,
    "it falls silent": Session.fall_silent,
    "it resets the connection": Session.reset,
    "it closes the connection": lambda session, _: session.send(SHUTDOWN),
    "it closes the channel": close_the_channel,
}
HANDSHAKE = ["ProtocolHeader", "Connection.StartOk", "Connection.Open"]
STEPS = {  # the first Queue.Declare, and the second
    "emitter": ["Confirm.Select", "Basic.Publish"],
    "worker": [
        *HANDSHAKE,
        *("Channel.Open", "Queue.Declare", "Queue.Declare 2", "Basic.Qos", "Basic.Consume"),
        *("Basic.Ack", "Basic.Reject", "Basic.Cancel"),
    ],
}
QUICK = "?heartbeat=1&stack_timeout=10"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between connections go by twenty times as fast, and silence is noticed as soon.

    A busy machine may lose a connection too many.
    """
    call_later = IOLoop.call_later
    monkeypatch.setattr(IOLoop, "call_later", lambda self, delay, callback: call_later(self, delay / 20, callback))


def have_end(server: Server, step: str, end: str) -> None:
    """Have a connection end once instead of an answer to a method; after `METHOD 2`, to the second from now on."""

    def answer(session: Session, got: Got) -> None:
        left[0] -= 1
        (Session.answer if left[0] else ENDS[end])(session, got)

    name, _, number = step.partition(" ")
    left = [int(number or 1)]
    server.on(name, answer)


def fail_first(task: Task) -> None:
    assert task.redelivered


@contextlib.contextmanager
def busy(side: str, scripts: Scripts, server: Server) -> Iterator[Callable[[], None]]:
    """Run an emitter's or a worker's side in this process. Gives what checks that it does a task."""

    def work_is_done() -> None:
        server.put(b"task")
        eventually(server.is_done, "the task is done")

    def task_is_sent() -> None:
        emitter.send("task")
        emitter.settle()

    if side == "worker":
        with working(scripts, fail_first, url=server.url + QUICK):
            yield work_is_done
    else:
        with emitting(server.url + QUICK) as emitter:
            yield task_is_sent


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("side", STEPS)
def test_a_later_connection_may_end_at_each_step_and_another_one_is_made(
    at_server: Scripts, server: Server, side: str, end: str
) -> None:
    # What both sides do is the same in both: a worker tries all that.
    server.version = "3.10.8"  # where a worker cancels its subscription after a failure
    with busy(side, at_server, server) as does_a_task:
        does_a_task()
        for step in STEPS[side]:
            if step not in HANDSHAKE or "channel" not in end:
                have_end(server, step, end)
                before = len(server.sessions)
                server.sessions[-1].hang_up()
                server.session(before)
                does_a_task()
                server.session(before + 1)
        before = len(server.sessions)
        ENDS[end](server.sessions[-1], None)
        server.session(before)
        does_a_task()


def test_a_burst_goes_on_when_its_connection_ends_around_a_task_and_in_its_look_at_the_queue(
    at_server: Scripts, server: Server
) -> None:
    def perform(_: Task) -> None:
        if ends:
            before = len(server.sessions)
            ENDS[ends.pop()](server.sessions[-1], None)
            if ends:  # else its ack goes into what is lost, without anybody having noticed
                server.session(before)  # there is another one

    def look(session: Session, got: Got) -> None:
        (ENDS[looks.pop()] if session.consumer and looks and not ends else Session.answer)(session, got)

    ends, looks = [*ENDS], [*ENDS]
    server.on("Queue.Declare", look)
    server.on("Channel.Close", Session.hang_up)
    server.put(b"task")
    lines = work(at_server, perform, url=f"{server.url}?heartbeat=5")  # a busy machine must lose no other connection
    assert f" [!] The connection to RabbitMQ at {server.at} was lost (" in "\n".join(lines)
    assert f" [!] RabbitMQ at {server.at} closed the connection (CONNECTION_FORCED - shutdown)." in lines
    lost = " [!] Done, but its acknowledgement is lost: RabbitMQ will hand this task out again."
    assert [lines.count(lost), lines.count(" [x] Done.")] == [len(ENDS), 1]
    assert not looks
