"""A worker that fails at everything slows down, and leaves the tasks to others."""

import signal

from harness import Scripts, eventually, start_own
from in_process import work
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
    """A task that is done in between ends the row, and the same task again is none."""
    server.on("Basic.Reject", give_up)
    bad = [b"bad %d" % number for number in range(8)]
    server.put(*bad[:4], b"good", *bad[4:], *bad[4:])
    worker = start_own(at_server, PROGRAM)
    eventually(lambda: len(at_server.events("failed")) == 12, "all are done or have failed")
    assert WORDS not in worker.err
    server.put(*bad[:4])
    worker.shows(WORDS)
    server.gets("Basic.Reject", times=13)
    eventually(lambda: server.counts("tasks") == (3, 0), "it is not subscribed, and holds no task")
    work(at_server, lambda _: None, max_tasks=3, burst=False, log_file=None)
    worker.send(signal.SIGTERM)
    worker.ends(within=5)
    assert len(server.got("Basic.Reject")) == 13
    assert worker.err.count(WORDS) == 1
