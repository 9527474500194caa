"""What a worker says to RabbitMQ, method by method."""

from __future__ import annotations

import signal
import threading

import pytest
from harness import Scripts
from pika import spec
from scripted_server import Got, Server, Session, nothing

WORKER = "listening_worker.py"


@pytest.mark.parametrize(
    ("task", "settled"), [(b"true", "Basic.Ack"), (b"false", "Basic.Reject"), (b"sleep 60", "Basic.Nack")]
)
def test_done_is_ack_failed_is_reject_and_stopped_is_nack(
    at_server: Scripts, server: Server, task: bytes, settled: str
) -> None:
    """Which RabbitMQ tells apart from 4.3 on: reject counts against the delivery limit, nack does not."""
    server.put(task)
    worker = at_server.start(WORKER, "--run", "sh -c {}", "--max-tasks", 1)
    if settled == "Basic.Nack":
        worker.shows("Received")
        worker.send(signal.SIGINT)
    worker.ends()
    (got,) = [got for name in ("Basic.Ack", "Basic.Reject", "Basic.Nack") for got in server.got(name)]
    assert (got.name, got.method.delivery_tag) == (settled, 1)
    assert not getattr(got.method, "multiple", False)
    assert getattr(got.method, "requeue", True)


def test_burst_waits_for_a_task_that_has_left_the_queue_and_is_not_here_yet(at_server: Scripts, server: Server) -> None:
    """And for the answer whether there is one, which may come late where the network is slow."""

    def arrive(session: Session, got: Got) -> None:
        session.answer(got)  # that nothing waits
        later(0.05, server.put, b"task")

    def later(seconds: float, *what: object) -> None:
        on_its_way.append(threading.Timer(seconds, what[0], what[1:]))  # type: ignore[arg-type]
        on_its_way[-1].start()

    def answer(session: Session, got: Got) -> None:
        if session.consumer and not on_its_way:
            later(0.5, arrive, session, got)
        else:
            session.answer(got)

    on_its_way: list[threading.Timer] = []
    server.on("Queue.Declare", answer)
    worker = at_server.work()
    for timer in on_its_way:
        timer.join()
    assert "Done." in worker.out


def test_a_task_that_is_not_in_hand_yet_when_its_connection_is_lost_is_done_once(
    at_server: Scripts, server: Server
) -> None:
    """RabbitMQ 3.10 may hand out two in spite of the prefetch."""
    server.put(b"until test -e gate; do sleep 0.02; done")
    worker = at_server.start(WORKER, "--run", "sh -c {}")
    worker.shows("Received until")
    server.session(0).deliver(b"true")
    server.session(0).hang_up()
    worker.shows("Reconnecting")
    (at_server.folder / "gate").touch()
    server.gets("Basic.Ack", times=2)
    worker.send(signal.SIGTERM)
    worker.ends()
    assert [line for line in worker.lines if "Received true" in line] == [" [x] Received true (redelivered)"]


def test_what_is_done_after_rabbitmq_has_cancelled_is_not_acknowledged(at_server: Scripts, server: Server) -> None:
    """It has been taken back, or its queue was deleted."""
    command = "sh -c 'until test -e go; do sleep 0.02; done'"
    worker = at_server.start(WORKER, "--run", command, "--log-file", at_server.log, "--max-tasks", 1)
    server.gets("Basic.Consume")
    server.session(0).deliver(b"task")
    worker.shows("Received")
    asked = len(server.got("Queue.Declare")) + 1
    server.on("Queue.Declare", nothing, 0)
    server.session(0).send(spec.Basic.Cancel(server.session(0).consumer, nowait=True))
    server.gets("Queue.Declare", asked)
    (at_server.folder / "go").touch()
    worker.ends()
    assert [record["event"] for record in at_server.events()] == ["received", "ack-lost"]
    assert server.got("Basic.Ack") == []
