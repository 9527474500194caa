"""What a worker says to RabbitMQ, method by method."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable

import pytest
from harness import Scripts
from in_process import work
from pika import spec
from scripted_server import Got, Server, Session, nothing

from task_queue.rabbitmq.connection import CLOSE_WITHIN
from task_queue.rabbitmq.error_messages import CANCELLED


@pytest.mark.parametrize(
    ("perform", "settled"),
    [
        (lambda _: None, "Basic.Ack"),
        (lambda _: 1 / 0, "Basic.Reject"),
        (lambda _: signal.raise_signal(signal.SIGINT), "Basic.Nack"),
    ],
)
def test_done_is_ack_failed_is_reject_and_stopped_is_nack(
    at_server: Scripts, server: Server, perform: Callable[[object], object], settled: str
) -> None:
    """Which RabbitMQ tells apart from 4.3 on: reject counts against the delivery limit, nack does not."""
    server.put(b"task")
    with contextlib.suppress(KeyboardInterrupt):
        work(at_server, perform, burst=False, max_tasks=1)
    (got,) = [got for name in ("Basic.Ack", "Basic.Reject", "Basic.Nack") for got in server.got(name)]
    assert (got.name, got.method.delivery_tag) == (settled, 1)
    assert not getattr(got.method, "multiple", False)
    assert getattr(got.method, "requeue", True)


def test_burst_waits_for_a_task_that_has_left_the_queue_and_is_not_here_yet(at_server: Scripts, server: Server) -> None:
    """And for the answer whether there is one, which comes late where the network is slow."""

    def answer(session: Session, got: Got) -> None:
        looks = len(session.got("Queue.Declare")) - 2  # the first two declare
        if looks == 2:
            server.put(b"task")
        threading.Timer(0.5 * (looks == 1), session.answer, [got]).start()

    server.on("Queue.Declare", answer)
    assert " [x] Done." in work(at_server, lambda _: None)


def test_a_task_that_is_not_in_hand_yet_when_its_connection_is_lost_is_done_once(
    at_server: Scripts, server: Server
) -> None:
    """RabbitMQ 3.10 may hand out two in spite of the prefetch."""

    def perform(_: object) -> None:
        if len(server.sessions) == 1:
            server.session(0).deliver(b"second")
            server.session(0).hang_up()
            server.session(1)

    server.put(b"first")
    lines = work(at_server, perform, burst=False, max_tasks=3)
    assert [line for line in lines if "second" in line] == [" [x] Received second (redelivered)"]


@pytest.mark.parametrize(("name", "event"), [("Basic.Cancel", "ack-lost"), ("Channel.Close", "done")])
def test_the_last_task_is_not_told_as_done_if_rabbitmq_has_not_answered(
    at_server: Scripts, server: Server, name: str, event: str
) -> None:
    """A frozen one does not apply an acknowledgement that comes behind its basic.cancel."""
    server.on(name, nothing)
    server.put(b"task")
    work(at_server, lambda _: None, burst=False, max_tasks=1)
    assert [record["event"] for record in at_server.events()] == ["received", event]


def test_a_connection_that_waits_for_an_answer_is_closed_in_time_all_the_same(
    at_server: Scripts, server: Server
) -> None:
    """Where pika would ask RabbitMQ to close only when it has that answer."""

    def answer(session: Session, got: Got) -> None:
        if session.consumer is None:
            session.answer(got)
        else:  # it looks whether the queue is empty
            session.send(spec.Basic.Cancel(session.consumer))

    server.on("Queue.Declare", answer, connection=0)
    assert " [!] " + CANCELLED in work(at_server, lambda _: None)
    assert server.session(1).began - server.session(0).began < CLOSE_WITHIN + 2
