"""The queue as a worker sees it: who gets which task, how a worker subscribes, and what it says to RabbitMQ."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pika.channel
import pytest
from harness import DEADLINE, Scripts, eventually, leader_of
from in_process import put, said_by, work, working
from pika import spec
from pika.adapters.select_connection import IOLoop
from scripted_server import Got, Server, Session, nothing

from task_queue.rabbitmq.connection import CLOSE_WITHIN
from task_queue.rabbitmq.error_messages import CANCELLED


def tasks_of(scripts: Scripts, event: str) -> dict[str, list[str]]:
    """Return the tasks with this event in the log, by the name of the worker."""
    names = {record["name"] for record in scripts.events()}
    return {name: [record["task"] for record in scripts.events(event) if record["name"] == name] for name in names}


def fails_once(task: Any) -> None:
    if not task.redelivered:
        raise ValueError


@pytest.mark.parametrize(
    ("ends", "done"),
    [("12345", [["1", "3", "5"], ["2", "4"]]), ("23451", [["1"], ["2", "3", "4", "5"]])],
    ids=["equal", "the first is long"],
)
def test_equal_tasks_are_taken_in_turn_and_a_worker_holds_one(scripts: Scripts, ends: str, done: list[str]) -> None:
    """Nor does a worker wait while a task is ready."""
    gates = {name: threading.Event() for name in "12345"}

    def perform(task: Any) -> None:
        assert gates[task.text].wait(DEADLINE)

    with working(scripts, perform, name="a"), working(scripts, perform, name="b"):
        eventually(lambda: scripts.broker.counts(scripts.queue)[1] == 2, "both listen")
        put(scripts, *(name.encode() for name in gates))
        for number, name in enumerate(ends, 1):
            begun = min(number + 1, 5)
            eventually(lambda: len(scripts.events("received")) == begun, "each has a task")  # noqa: B023
            assert scripts.broker.counts(scripts.queue)[0] == 5 - begun
            gates[name].set()
            eventually(lambda: len(scripts.events("done")) == number, "one is done")  # noqa: B023
    assert sorted(tasks_of(scripts, "done").values()) == done


def test_a_worker_is_known_by_its_name_and_says_how_long_a_task_may_take(at_server: Scripts, server: Server) -> None:
    server.put(b"one")
    flags = ("--name", "anna", "--ack-timeout", "0.5", "--log-file", at_server.log)
    said_by(at_server, "listening_worker.py", "--max-tasks", 1, *flags)
    server.put(b"two")
    work(at_server, lambda _: None, max_tasks=1)
    by_default = f"worker-{socket.gethostname()}-{os.getpid()}"
    subscribed = [(got.method.consumer_tag, got.method.arguments) for got in server.got("Basic.Consume")]
    assert subscribed == [
        ("anna", {"x-consumer-timeout": 1_800_000}),
        (by_default, {"x-consumer-timeout": 86_400_000}),
    ]
    properties = [got.method.client_properties for got in server.got("Connection.StartOk")]
    assert [each["connection_name"] for each in properties] == ["anna", by_default]
    assert [record["name"] for record in at_server.events("done")] == ["anna", by_default]


@pytest.mark.parametrize(("perform", "max_tasks"), [(lambda _: 1 / 0, 1), (lambda _: asyncio.sleep(0), 2)])
def test_a_worker_that_ends_with_a_failed_task_takes_no_other_one(
    at_server: Scripts, server: Server, perform: Callable[[object], object], max_tasks: int
) -> None:
    """RabbitMQ would hand it out at once, if the subscription did not end before the answer."""
    server.put(b"bad")
    with contextlib.suppress(TypeError):  # for what was only begun
        work(at_server, perform, burst=False, max_tasks=max_tasks)
    names = [got.name for got in server.received]
    assert names.index("Basic.Cancel") < names.index("Basic.Reject")


@pytest.mark.parametrize("limit", [20, 2])
def test_a_worker_that_made_a_dead_letter_holds_one_task_at_a_time_still(scripts: Scripts, limit: int) -> None:
    scripts.broker.set_policy(scripts.queue, **{"delivery-limit": limit})
    put(scripts, b"bad")
    goes_on = threading.Event()

    def perform(task: Any) -> None:
        assert task.text != "bad"
        assert goes_on.wait(DEADLINE)

    with working(scripts, perform, name="a"):
        eventually(lambda: scripts.broker.counts(scripts.dead_letters)[0], "it is a dead letter")
        put(scripts, b"one", b"two")
        eventually(lambda: tasks_of(scripts, "received")["a"][-1] == "one", "it has the first")
        assert " [x] Received two" in work(scripts, lambda _: None, name="b", burst=False, max_tasks=1)
        goes_on.set()
    assert tasks_of(scripts, "done") == {"a": ["one"], "b": ["two"]}


@pytest.mark.parametrize(("version", "cancels"), [("3.10.8", 1), ("3.11.0", 0), ("4.3.6", 0), ("unknown", 0)])
def test_a_failed_task_costs_a_subscription_only_where_rabbitmq_needs_it(
    at_server: Scripts, server: Server, version: str, cancels: int
) -> None:
    server.version = version
    server.put(b"bad")
    with working(at_server, fails_once):
        server.gets("Basic.Ack")
        assert len(server.got("Basic.Reject")) == 1
        assert len(server.got("Basic.Cancel")) == cancels
        assert len(server.got("Basic.Consume")) == 1 + cancels


@pytest.mark.parametrize(("owner", "name"), [(pika.channel.Channel, "_on_deliver"), (IOLoop, "process_timeouts")])
def test_an_error_out_of_pikas_loop_is_a_lost_connection_with_a_reason(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    """One that pika catches, as it does what comes while it reads, and one that it does not."""
    errors = [RuntimeError("in disorder")]
    real = getattr(owner, name)

    def fails_once(self: Any, *arguments: object) -> None:
        if errors and server.got("Basic.Consume"):
            raise errors.pop()
        real(self, *arguments)

    monkeypatch.setattr(owner, name, fails_once)
    server.put(b"task")
    lines = work(at_server, lambda _: None, burst=False, max_tasks=1)
    assert any("was lost (" in line and "in disorder" in line for line in lines)
    assert " [x] Done." in lines


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


# ---- A burst ends when nothing is left for it, and no sooner


def test_burst_waits_for_a_queue_whose_leader_does_not_answer(scripts: Scripts) -> None:
    leader = leader_of(scripts.queue)
    freeze = f"sys:suspend({leader}), spawn(fun() -> timer:sleep(2500), sys:resume({leader}) end)."
    put(scripts, b"one", b"two")
    lines = work(scripts, lambda task: task.text == "one" and scripts.broker.node.ctl("eval", freeze))
    assert " [x] Received two" in lines


def test_burst_ends_with_the_queue(scripts: Scripts) -> None:
    assert len(work(scripts, print)) == 2
    put(scripts, *(b"%d" % number for number in range(200)))
    with contextlib.ExitStack() as stack:
        for worker in [stack.enter_context(working(scripts, lambda _: None, burst=True)) for _ in range(3)]:
            worker.join(DEADLINE)
            assert not worker.is_alive()
    assert sorted(int(record["task"]) for record in scripts.events("done")) == [*range(200)]


@pytest.mark.parametrize("ends_by", ["failure", "lost connection"])
def test_a_burst_waits_for_the_next_try_of_what_failed_in_it(at_server: Scripts, server: Server, ends_by: str) -> None:
    """RabbitMQ 4.3 counts it nowhere meanwhile, and also takes a lost connection for a failure."""

    def keep(session: Session, _got: Got | None = None) -> None:
        session.in_hand.clear()
        threading.Timer(1, lambda: server.put(b"again")).start()

    def perform(task: Any) -> None:
        if task.text == "task":
            assert ends_by == "lost connection"
            keep(server.session(0))
            server.session(0).hang_up()
            server.gets("Queue.Declare", times=3)  # it is connected again

    server.on("Basic.Reject", keep)
    server.put(b"task")
    work(at_server, perform)
    first = "failed" if ends_by == "failure" else "ack-lost"
    assert [record["event"] for record in at_server.events()] == ["received", first, "received", "done"]


def test_burst_waits_for_a_task_that_has_left_the_queue_and_is_not_here_yet(at_server: Scripts, server: Server) -> None:
    """And for the answer whether there is one, which comes late where the network is slow."""

    def answer(session: Session, got: Got) -> None:
        looks = len(session.got("Queue.Declare")) - 2  # the first two declare
        if looks == 2:
            server.put(b"task")
        threading.Timer(0.5 * (looks == 1), session.answer, [got]).start()

    server.on("Queue.Declare", answer)
    assert " [x] Done." in work(at_server, lambda _: None)
