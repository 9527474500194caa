"""The two queues, and what differs from one RabbitMQ to the next, as docs/versions.md has it."""

import re
import signal
from typing import Any

import pytest
from harness import Scripts, eventually, servers_own_timeout
from in_process import put, said_by, work
from relay import Relay
from scripted_server import Server

from task_queue.rabbitmq.error_messages import CANCELLED
from task_queue.rabbitmq.queues import arguments_of

STOPPED = " [*] Stopped."
EMITTER, WORKER = "emitter_of_tasks.py", "listening_worker.py"


def older(scripts: Scripts) -> dict[str, Any]:
    """Return the arguments of a queue that the scripts declared before they knew of 4.3."""
    ours = arguments_of(scripts.queue)
    return {name: ours[name] for name in ours if "timeout" not in name and "retry" not in name}


def names(scripts: Scripts) -> set[str]:
    """Return which of the two queues are there."""
    found = {queue["name"] for queue in scripts.broker.api("GET", "queues/%2F")}
    return found & {scripts.queue, scripts.dead_letters}


@pytest.fixture
def waiting(scripts: Scripts) -> Scripts:
    """The scripts on a queue without the tests' short waits."""
    policy = {"pattern": f"^{scripts.queue}$", "definition": {"delivery-limit": 20}, "priority": 2}
    scripts.broker.api("PUT", f"policies/%2F/{scripts.queue}", {**policy, "apply-to": "queues"})
    return scripts


def test_what_ctrl_c_hands_back_is_no_failed_try_from_4_3_on(scripts: Scripts) -> None:
    """And another worker gets it at once."""
    scripts.emit("task.........")
    first = scripts.worker("--log-file", scripts.log)
    first.shows("1 of 9")
    first.send(signal.SIGINT)
    tries: list[int] = []
    second = work(scripts, lambda task: tries.append(task.delivery_count), log_file=None, burst=False, max_tasks=1)
    assert " [x] Received task......... (redelivered)" in second
    assert tries == [0 if scripts.broker.version >= (4, 3) else 1]
    assert first.ends().lines[-2:] == [" [*] Not finished, so it goes back to the queue: task.........", STOPPED]
    (requeued,) = scripts.events("requeued")
    assert 1 <= requeued["seconds"] < 9


def test_a_dead_letter_that_went_back_has_all_its_tries_again_or_one_more(scripts: Scripts) -> None:
    """Its former tries are neither shown nor logged before RabbitMQ 4.3, but that 4.0 calls the first the second."""
    put(scripts, b"task")
    scripts.work("--run", "false")
    scripts.emit("--retry-dead-letters")
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 1, "it is back")
    worker = scripts.work("--run", "false", "--log-file", scripts.log)
    expected = {
        (4, 3): ("one more try", (True, 21)),
        (4, 0): ("try 2 of at most 21", (True, 1)),
        (3, 10): ("try 1 of at most 21", (False, 0)),
    }
    words, first = next(row for version, row in expected.items() if scripts.broker.version >= version)
    failed = [line for line in worker.lines if "Failed" in line]
    assert failed[0] == f" [!] Failed ({words}): false ended with exit status 1"
    tries = [(record["redelivered"], record["delivery_count"]) for record in scripts.events("received")]
    assert tries[0] == first
    # Not always 21: under load, some come to nobody's hands and are counted.
    assert len(tries) > 15 or (len(tries) == 1 and first[1] == 21)
    assert all(redelivered and before <= count for (_, before), (redelivered, count) in zip(tries, tries[1:]))
    assert "dead letter now" in worker.out


COUNTS = [  # redelivered, headers, how many tries have failed
    (False, {}, 0),
    (False, {"x-delivery-count": 20}, 0),
    (True, {}, 0),
    (True, {"x-delivery-count": 3}, 3),
    (True, {"x-delivery-count": 20, "x-acquired-count": 2}, 2),
    (True, {"x-delivery-count": 2, "x-acquired-count": 20}, 2),
    (True, {"x-acquired-count": 2}, 0),  # handed out, and handed back
    (True, {"x-delivery-count": "20"}, 0),
    (True, {"x-delivery-count": True}, 0),
    (True, {"x-delivery-count": -5}, 0),
]


def test_a_clients_own_header_counts_no_tries(at_server: Scripts, server: Server) -> None:
    worker = at_server.start(WORKER, "--run", "false", "--max-tasks", len(COUNTS), "--log-file", at_server.log)
    server.gets("Basic.Consume")
    for number, (redelivered, headers, _) in enumerate(COUNTS):
        server.session(0).deliver(b"%d" % number, redelivered, headers=headers)
    worker.ends()
    assert [record["delivery_count"] for record in at_server.events("received")] == [count for _, _, count in COUNTS]
    assert "dead letter now" not in worker.out


def test_a_failed_task_waits_before_the_next_try_from_4_3_on(waiting: Scripts) -> None:
    waiting.emit(stdin=b"bad\ngood\n")
    fails_twice = "test $1 = good || test -e try && exit 0; test -e first && touch try; touch first; exit 1"
    run = waiting.work("--log-file", waiting.log, "--run", f"sh -c '{fails_twice}' sh {{}}")
    received = [record["time"] for record in waiting.events("received") if record["task"] == "bad"]
    waits = re.findall(
        r" \[!\] Failed \(try \d of at most 21\): sh ended with exit status 1; again in about (\d) s\n", run.out
    )
    assert len(received) == 3
    if waiting.broker.version < (4, 3):
        assert waits == []
        return
    assert waits == ["1", "2"]
    times = [float(time[17:26]) for time in received]
    assert 1 <= (times[1] - times[0]) % 60 < 2
    assert 2 <= (times[2] - times[1]) % 60 < 3
    assert [record["task"] for record in waiting.events("done")] == ["good", "bad"]


def test_a_burst_waits_for_the_next_try_of_what_was_lost_with_its_connection(waiting: Scripts, relay: Relay) -> None:
    """RabbitMQ 4.3 takes that for a failure, too."""
    waiting.emit("task")
    at_work = "sh -c 'test -e begun && exit; touch begun; until test -e end; do sleep 0.1; done'"
    run = waiting.start(WORKER, "--burst", "--run", at_work, "--log-file", waiting.log, "--url", relay.url)
    eventually((waiting.folder / "begun").exists, "it is at work")
    relay.cut()
    run.shows("Connected again")
    (waiting.folder / "end").touch()
    run.ends()
    assert [record["event"] for record in waiting.events()] == ["received", "ack-lost", "received", "done"]


def test_a_burst_leaves_what_another_worker_has_failed(waiting: Scripts) -> None:
    times = {"x-delayed-retry-type": "failed", "x-delayed-retry-min": 60_000, "x-delayed-retry-max": 60_000}
    waiting.broker.declare(waiting.queue, **older(waiting), **times)
    put(waiting, b"task")
    waiting.start(WORKER, "--passive", "--max-tasks", 1, "--run", "false").ends()
    leaves_it = "Received" not in waiting.work("--passive", "--run", "true").out
    assert leaves_it == (waiting.broker.version >= (4, 3))


@pytest.mark.parametrize("kind", ["older", "classic"])
def test_a_queue_with_other_settings_is_refused_and_the_flag_is_named_that_uses_it(scripts: Scripts, kind: str) -> None:
    scripts.broker.declare(scripts.queue, **(older(scripts) if kind == "older" else {"x-queue-type": "classic"}))
    if kind == "older" and scripts.broker.version < (4, 3):  # which does not look at the others
        assert said_by(scripts, EMITTER, "task")[0] == 0
        return
    status, _, err = said_by(scripts, EMITTER, "task")
    assert status == 1
    assert f"Queue {scripts.queue} has other settings" in err
    assert "use it as it is: --passive" in err
    assert names(scripts) == {scripts.queue}, "a refusal leaves nothing behind"


def test_passive_needs_no_right_to_configure(scripts: Scripts) -> None:
    """And without the flag, RabbitMQ's refusal names it."""
    api, user = scripts.broker.api, scripts.queue
    work(scripts, print)  # declares both queues
    api("PUT", f"users/{user}", {"password": "secret", "tags": ""})
    api("PUT", f"permissions/%2F/{user}", {"configure": "^$", "write": ".*", "read": ".*"})
    scripts.environment["AMQP_URL"] = scripts.broker.url.replace("guest:guest", f"{user}:secret")
    try:
        status, _, refused = said_by(scripts, WORKER)
        emitted = said_by(scripts, EMITTER, "task", "--passive")
        worked = said_by(scripts, WORKER, "--passive", "--burst", "--seconds-per-dot", 0)
    finally:
        api("DELETE", f"users/{user}")
    assert status == 1
    assert f"User {user} may not do this (ACCESS_REFUSED" in refused
    assert "--passive uses a queue that is there" in refused
    assert emitted[:2] == (0, " [x] Sent task\n")
    assert "Done." in worked[1]
    for _, _, err in (emitted, worked):
        assert err.startswith(
            f" [*] Queue {scripts.queue} is used as it is. What becomes of failed tasks, and whether "
        )
        assert err.count("\n") == 1


@pytest.mark.parametrize(("kind", "tries"), [("classic", ["", "", ""]), ("quorum", ["", " (try 2)", " (try 3)"])])
def test_passive_shows_the_tries_of_a_queue_that_counts_them(scripts: Scripts, kind: str, tries: list[str]) -> None:
    """And declares nothing."""
    scripts.broker.declare(scripts.queue, **{"x-queue-type": kind})
    assert said_by(scripts, EMITTER, "task", "--passive")[:2] == (0, " [x] Sent task\n")
    left = [*tries]

    def perform(task: Any) -> None:
        assert task.redelivered == (left != tries)
        if left:
            left.pop()
            raise ValueError("no")

    lines = work(scripts, perform, passive=True)
    failed = [line.partition(": ")[0] for line in lines if "ailed" in line and "[!]" in line]
    assert failed == [f" [!] Failed{each}" for each in tries]
    assert lines[-3:] == [" [x] Received task (redelivered)", " [x] Done.", " [*] Stopped."]
    assert "again in" not in "".join(lines)
    assert names(scripts) == {scripts.queue}


def test_passive_waits_for_a_queue_that_is_deleted_and_ends_where_there_was_none(scripts: Scripts) -> None:
    none = f"There is no queue {scripts.queue}, and with --passive or --retry-dead-letters it is not declared here"
    for script, *flags in ((EMITTER, "task", "--passive"), (EMITTER, "--retry-dead-letters"), (WORKER, "--passive")):
        status, _, err = said_by(scripts, script, *flags)
        assert status == 1
        assert none in err
    scripts.broker.declare(scripts.queue)
    worker = scripts.worker("--passive")
    emitter = scripts.at_terminal(EMITTER, "--passive", "--no-admin")
    emitter.expect("Enter new task: ")
    emitter.sendline("one")
    emitter.expect_exact(" [x] Sent one\r\n")
    worker.shows("Done.")
    scripts.broker.drop(scripts.queue)
    for words in (CANCELLED, none):
        worker.shows(words)
    emitter.sendline("two")
    emitter.expect_exact(none)
    scripts.broker.declare(scripts.queue)
    emitter.expect_exact(" [x] Sent two\r\n")
    worker.shows("Done.", times=2)
    assert names(scripts) == {scripts.queue}


def test_dead_letters_go_back_to_an_older_queue(scripts: Scripts) -> None:
    """Which RabbitMQ 4.3 would not have declared again."""
    scripts.broker.declare(scripts.queue, **{**older(scripts), "x-delivery-limit": 1})
    said_by(scripts, EMITTER, "--retry-dead-letters")  # declares their queue
    put(scripts, b"task")
    assert scripts.work("--passive", "--run", "false").out.count("Failed") == 2
    eventually(lambda: scripts.broker.counts(scripts.dead_letters)[0] == 1, "it is a dead letter")
    assert "Moved 1 dead letter back" in said_by(scripts, EMITTER, "--retry-dead-letters")[1]
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 1, "it is back")


def test_the_queue_gives_a_task_24_hours_where_rabbitmq_knows_that_argument(own_scripts: Scripts) -> None:
    with servers_own_timeout(own_scripts.broker, 500):
        own_scripts.emit("task...")
        worker = own_scripts.worker("--log-file", own_scripts.log)
        worker.shows("Done")
    if own_scripts.broker.version >= (3, 12):
        assert worker.err == ""
        assert [record["event"] for record in own_scripts.events()] == ["received", "done"]
        return
    assert "RabbitMQ waits no longer for an acknowledgement (PRECONDITION_FAILED" in worker.err
    assert "\nGive tasks more time in rabbitmq.conf:  consumer_timeout = 86400000  (docs/versions.md has" in worker.err


def test_a_policy_may_give_a_task_less_until_4_3_and_that_is_said(own_scripts: Scripts) -> None:
    if own_scripts.broker.version < (3, 12):
        pytest.skip("RabbitMQ 3.11 and older have no such policy")
    with servers_own_timeout(own_scripts.broker, 1_800_000):
        own_scripts.broker.set_policy(own_scripts.queue, **{"consumer-timeout": 1000})
        own_scripts.emit("task....")
        worker = own_scripts.worker("--max-tasks", 1)
        worker.ends()
    if own_scripts.broker.version < (4, 3):
        assert "RabbitMQ waits no longer for an acknowledgement (PRECONDITION_FAILED" in worker.err
        assert "(docs/versions.md has other ways)" in worker.err
    else:  # what the worker says rules
        assert worker.err == ""


def test_a_task_that_is_too_long_for_its_ack_timeout_is_handed_out_again_and_not_counted(scripts: Scripts) -> None:
    if scripts.broker.version < (4, 3):
        pytest.skip("before RabbitMQ 4.3 a consumer can't say how long it may take")
    scripts.emit("task......")
    worker = scripts.worker("--ack-timeout", "0.001", "--log-file", scripts.log, "--max-tasks", 2)
    worker.ends(within=30)
    assert CANCELLED in worker.err
    assert [record["delivery_count"] for record in scripts.events("received")] == [0, 0]
    assert len(scripts.events("ack-lost")) == 2
