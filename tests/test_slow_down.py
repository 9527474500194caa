"""A worker that fails at everything slows down, and leaves the tasks to others."""

from __future__ import annotations

import signal

from harness import Scripts, eventually, start_own
from in_process import put, work
from scripted_server import Got, Server, Session

PROGRAM = """
from task_queue.worker import slow_down

slow_down.FIRST_BREAK = slow_down.LONGEST_BREAK = 3600.0

def perform(task):
    if task.text.startswith("bad"):
        raise ValueError

run(lambda: listen(perform, log_file="events.jsonl"))
"""
WORDS = "5 different tasks in a row have failed here: is this worker set up wrongly?"


def give_up(session: Session, got: Got) -> None:
    """Make a dead letter of a task that has failed once."""
    del session.in_hand[got.method.delivery_tag]
    session.server.hand_out()


def test_a_worker_that_fails_at_five_different_tasks_in_a_row_leaves_the_others_to_healthy_ones(
    at_server: Scripts, server: Server
) -> None:
    server.on("Basic.Reject", give_up)
    server.put(*(b"bad %d" % number for number in range(8)))
    worker = start_own(at_server, PROGRAM)
    worker.shows(WORDS)
    server.gets("Basic.Reject", times=5)
    eventually(lambda: server.counts("tasks") == (3, 0), "it is not subscribed, and holds no task")
    work(at_server, lambda _: None, max_tasks=3, burst=False, log_file=None)
    worker.send(signal.SIGTERM)
    worker.ends(within=5)
    assert len(server.got("Basic.Reject")) == 5
    assert worker.err.count(WORDS) == 1


def test_a_task_that_is_done_in_between_ends_the_row_and_the_same_task_again_is_none(
    at_server: Scripts, server: Server
) -> None:
    server.on("Basic.Reject", give_up)
    bad = [b"bad %d" % number for number in range(4)]
    server.put(*bad, b"good", *bad, *bad, b"good")
    worker = start_own(at_server, PROGRAM)
    eventually(lambda: len(at_server.events("done")) == 2, "all are done or have failed")
    worker.send(signal.SIGTERM)
    assert WORDS not in worker.ends().err


def test_few_dead_letters_come_of_a_worker_that_is_set_up_wrongly(scripts: Scripts) -> None:
    put(scripts, *(b"task %d" % number for number in range(20)))
    worker = scripts.worker("--run", "false")
    worker.shows(WORDS)
    eventually(lambda: len(scripts.broker.bodies(scripts.queue)) >= 14, "it holds none, and has spoiled few")
    worker.send(signal.SIGINT)
    worker.ends(within=5)
