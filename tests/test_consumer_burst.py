"""A burst ends when nothing is left for it, and no sooner."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest
import task_queue.consumer
from harness import DEADLINE, Scripts, eventually, leader_of
from in_process import put, work, working
from scripted_server import Got, Server, Session


def fails_once(task: Any) -> None:
    if not task.redelivered:
        raise ValueError


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

    def give_back(body: bytes) -> None:
        time.sleep(0.5)
        with server.lock:
            server.tasks.append((body, True))
            server.hand_out()

    def keep(session: Session, _got: Got) -> None:
        (body, _), *_ = session.in_hand.values()
        session.in_hand.clear()
        threading.Thread(target=give_back, args=[body]).start()

    def perform(task: Any) -> None:
        if ends_by == "failure":
            fails_once(task)
        elif not task.redelivered:
            keep(server.session(0), server.received[-1])
            server.session(0).hang_up()
            server.gets("Queue.Declare", times=3)  # it is connected again

    server.on("Basic.Reject", keep)
    server.put(b"task")
    work(at_server, perform)
    first = "failed" if ends_by == "failure" else "ack-lost"
    assert [record["event"] for record in at_server.events()] == ["received", first, "received", "done"]


def test_a_burst_waits_no_longer_when_what_failed_in_it_is_done(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver(session: Session, got: Got) -> None:
        session.in_hand.clear()
        if got.name == "Basic.Consume":
            session.answer(got)
        session.deliver(b"task", redelivered=got.name == "Basic.Reject", message_id="an id")

    monkeypatch.setattr(task_queue.consumer, "LATE", 3600.0)
    server.on("Basic.Consume", deliver)
    server.on("Basic.Reject", deliver)
    with working(at_server, fails_once, burst=True) as worker:
        eventually(lambda: not worker.is_alive(), "it ends")
    assert [record["event"] for record in at_server.events()] == ["received", "failed", "received", "done"]


def test_a_burst_unsubscribes_before_it_rejects_though_a_task_comes_while_it_asks(
    at_server: Scripts, server: Server
) -> None:
    """Else RabbitMQ 3.10 would deliver one more task, and its return untried would count as a try."""
    looks = []

    def look(session: Session, got: Got) -> None:
        looks.append(got)
        if len(looks) == 3:  # the first two declare the queues
            session.deliver(b"task")
            threading.Timer(0.5, session.answer, [got]).start()
        else:
            session.answer(got)

    server.version = "3.10.8"
    server.on("Queue.Declare", look)
    with working(at_server, fails_once, burst=True, max_tasks=2):
        (reject,) = server.gets("Basic.Reject")
    assert server.got("Basic.Cancel")[0].at <= reject.at
