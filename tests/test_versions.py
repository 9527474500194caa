"""What differs from one RabbitMQ to the next, as docs/versions.md has it: run with `tools/test.py --rabbitmq`."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator

import pytest
from harness import Broker, Scripts, eventually
from relay import Relay

from task_queue.errors import CANCELLED
from task_queue.queues import arguments_of

DAY = 86_400_000  # milliseconds
EMITTER, WORKER = "emitter_of_tasks.py", "listening_worker.py"


def older(scripts: Scripts) -> dict[str, object]:
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
    policy = {
        "pattern": f"^{scripts.queue}$",
        "definition": {"delivery-limit": 20},
        "apply-to": "queues",
        "priority": 2,
    }
    scripts.broker.api("PUT", f"policies/%2F/{scripts.queue}", policy)
    return scripts


# ---- What counts as a try


def test_what_ctrl_c_hands_back_is_no_failed_try_from_4_3_on(scripts: Scripts) -> None:
    scripts.emit("task...")
    worker = scripts.start(WORKER)
    worker.shows("Received")
    worker.send(signal.SIGINT)
    worker.ends()
    scripts.start(WORKER, "--max-tasks", 1, "--run", "false", "--log-file", scripts.log).ends()
    counted = 0 if scripts.broker.version >= (4, 3) else 1
    assert scripts.events("received")[0]["delivery_count"] == counted


def have_dead_letters_back(scripts: Scripts, number: int) -> None:
    """Have so many tasks fail too often, and moved back to the queue."""
    scripts.emit(stdin=b"task\n" * number)
    scripts.work("--run", "false")
    scripts.emit("--retry-dead-letters")
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == number, "they are back")


def test_a_dead_letter_that_went_back_has_all_its_tries_again_or_one_more(scripts: Scripts) -> None:
    """Its former tries are neither shown nor logged before RabbitMQ 4.3, but that 4.0 calls the first the second."""
    have_dead_letters_back(scripts, 1)
    worker = scripts.work("--run", "false", "--log-file", scripts.log)
    expected = {
        (4, 3): ("one more try", (True, 21)),
        (4, 0): ("try 2 of 21", (True, 1)),
        (3, 10): ("try 1 of 21", (False, 0)),
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


# ---- When the next try comes


def test_a_failed_task_waits_before_the_next_try_from_4_3_on(waiting: Scripts) -> None:
    waiting.emit(stdin=b"bad\ngood\n")
    run = waiting.start(
        "listening_worker.py",
        "--burst",
        "--log-file",
        waiting.log,
        "--run",
        "sh -c 'test $1 = good || test -e try && exit 0; test -e first && touch try; touch first; exit 1' sh {}",
    )
    run.ends()
    received = [record["time"] for record in waiting.events("received") if record["task"] == "bad"]
    waits = re.findall(r" \[!\] Failed \(try \d of 21\): sh ended with exit status 1; again in about (\d) s\n", run.out)
    assert len(received) == 3
    if waiting.broker.version < (4, 3):
        assert waits == []
        return
    assert waits == ["1", "2"]
    times = [float(received[number][17:26]) for number in range(3)]
    assert 1 <= (times[1] - times[0]) % 60 < 2
    assert 2 <= (times[2] - times[1]) % 60 < 3
    assert [record["task"] for record in waiting.events("done")] == ["good", "bad"]


def test_a_burst_waits_for_the_next_try_of_what_was_lost_with_its_connection(waiting: Scripts, relay: Relay) -> None:
    """RabbitMQ 4.3 takes that for a failure, too."""
    waiting.emit("task")
    code = (
        "import os\n"
        "from listening_worker import listen\n"
        "def perform(task):\n"
        "    if not task.redelivered:\n"
        "        open('here', 'w').close()\n"
        "        while os.path.exists('here'): pass\n"
        "listen(perform, url=os.environ['RELAY'], burst=True, log_file='events.jsonl')\n"
    )
    run = waiting.start_program(code, {"RELAY": relay.url})
    here = waiting.folder / "here"
    eventually(here.exists, "it is at work")
    relay.cut()
    run.shows("Connected again")
    here.unlink()
    run.ends()
    assert [record["event"] for record in waiting.events()] == ["received", "ack-lost", "received", "done"]


def test_a_burst_leaves_what_another_worker_has_failed(waiting: Scripts) -> None:
    has_waits = waiting.broker.version >= (4, 3)
    times = {"x-delayed-retry-type": "failed", "x-delayed-retry-min": 60_000, "x-delayed-retry-max": 60_000}
    waiting.broker.declare(waiting.queue, **older(waiting), **times)
    waiting.emit("task", "--passive")
    waiting.start(WORKER, "--passive", "--max-tasks", 1, "--run", "false").ends()
    run = waiting.work("--passive", "--run", "true")
    assert ("Received" not in run.out) == has_waits


# ---- Queues that others have declared


@pytest.mark.parametrize("kind", ["older", "elsewhere", "classic"])
def test_a_queue_with_other_settings_is_refused_and_the_flag_is_named_that_uses_it(scripts: Scripts, kind: str) -> None:
    elsewhere = {**older(scripts), "x-dead-letter-routing-key": "elsewhere"}
    arguments = {"older": older(scripts), "elsewhere": elsewhere, "classic": {"x-queue-type": "classic"}}[kind]
    scripts.broker.declare(scripts.queue, **arguments)
    if kind == "older" and scripts.broker.version < (4, 3):  # which does not look at the others
        assert "Sent task" in scripts.emit("task").out
        return
    for run in (scripts.emit("task", status=1), scripts.start(WORKER).ends(1)):
        assert f"Queue {scripts.queue} has other settings" in run.err
        assert "use it as it is: --passive" in run.err
    assert names(scripts) == {scripts.queue}, "a refusal leaves nothing behind"


USED_AS_IT_IS = "is used as it is. What becomes of failed tasks, and whether tasks outlast a restart of"


def test_passive_needs_no_right_to_configure(scripts: Scripts) -> None:
    """And without the flag, RabbitMQ's refusal names it."""
    api, user = scripts.broker.api, scripts.queue
    scripts.work()
    api("PUT", f"users/{user}", {"password": "secret", "tags": ""})
    api("PUT", f"permissions/%2F/{user}", {"configure": "^$", "write": ".*", "read": ".*"})
    scripts.environment["AMQP_URL"] = scripts.broker.url.replace("guest:guest", f"{user}:secret")
    try:
        for run in (scripts.emit("task", status=1), scripts.start(WORKER).ends(1)):
            assert f"User {user} may not do this (ACCESS_REFUSED" in run.err
            assert "--passive uses a queue that is there" in run.err
        emitter, worker = scripts.emit("task", "--passive"), scripts.work("--passive")
    finally:
        api("DELETE", f"users/{user}")
    assert emitter.lines == [" [x] Sent task"]
    assert "Done." in worker.out
    for run in (emitter, worker):
        assert run.err.count("\n") == 1
        assert f" [*] Queue {scripts.queue} {USED_AS_IT_IS}" in run.err


def test_passive_uses_a_classic_queue_and_declares_nothing(scripts: Scripts) -> None:
    scripts.broker.declare(scripts.queue, **{"x-queue-type": "classic"})
    scripts.emit("task", "--passive")
    program = (
        "from listening_worker import listen\n"
        "def perform(task):\n"
        "    assert task.redelivered\n"
        "listen(perform, passive=True, burst=True)\n"
    )
    worker = scripts.program(program)
    # Such a queue counts no tries.
    assert [line for line in worker.lines if "ailed" in line] == [" [!] Failed: AssertionError:  (work.py, line 3)"]
    assert worker.lines[-3:] == [" [x] Received task (redelivered)", " [x] Done.", " [*] Stopped."]
    assert names(scripts) == {scripts.queue}


def test_passive_shows_the_tries_of_a_queue_that_counts_them(scripts: Scripts) -> None:
    scripts.broker.declare(scripts.queue, **{"x-queue-type": "quorum", "x-delivery-limit": 2})
    scripts.emit("task", "--passive")
    worker = scripts.work("--passive", "--run", "false")
    tries = [re.findall(r"Failed(.*): ", line) for line in worker.lines if "Failed" in line]
    assert tries == [[""], [" (try 2)"], [" (try 3)"]]
    assert "again in" not in worker.out
    assert "dead letter" not in worker.out, "the queue may have none"


def test_passive_waits_for_a_queue_that_is_deleted_and_ends_where_there_was_none(scripts: Scripts) -> None:
    none = f"There is no queue {scripts.queue}, and with --passive or --retry-dead-letters it is not declared here"
    for run in (scripts.emit("task", "--passive", status=1), scripts.start(WORKER, "--passive").ends(1)):
        assert none in run.err
    scripts.broker.declare(scripts.queue)
    worker = scripts.worker("--passive")
    emitter = scripts.at_terminal(EMITTER, "--passive", "--no-admin")
    emitter.expect("Enter new task: ")
    emitter.sendline("one")
    emitter.expect_exact(" [x] Sent one\r\n")
    worker.shows("Done.")
    scripts.broker.drop(scripts.queue)
    worker.shows(none)
    emitter.sendline("two")
    emitter.expect_exact(none)
    scripts.broker.declare(scripts.queue)
    emitter.expect_exact(" [x] Sent two\r\n")
    worker.shows("Done.", times=2)
    assert names(scripts) == {scripts.queue}


def test_dead_letters_go_back_to_an_older_queue(scripts: Scripts) -> None:
    """Which RabbitMQ 4.3 would not have declared again."""
    scripts.broker.declare(scripts.queue, **{**older(scripts), "x-delivery-limit": 1})
    scripts.emit("--retry-dead-letters")  # declares their queue
    scripts.emit("task", "--passive")
    assert scripts.work("--passive", "--run", "false").out.count("Failed") == 2
    eventually(lambda: scripts.broker.counts(scripts.dead_letters)[0] == 1, "it is a dead letter")
    assert "Moved 1 dead letter back" in scripts.emit("--retry-dead-letters").out
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 1, "it is back")


# ---- The ack timeout


@contextlib.contextmanager
def servers_own_timeout(broker: Broker, milliseconds: int) -> Iterator[None]:
    """Have the server itself take tasks back soon, whatever its consumers say."""
    look = "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    broker.eval(look.format(milliseconds, 200))
    try:
        yield
    finally:
        broker.eval(look.format(1_800_000, 60_000))


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
    assert f"\nGive tasks more time in rabbitmq.conf:  consumer_timeout = {DAY}  (docs/versions.md has" in worker.err


def test_a_policy_may_give_a_task_less_until_4_3_and_that_is_said(own_scripts: Scripts) -> None:
    scripts = own_scripts
    if scripts.broker.version < (3, 12):
        pytest.skip("RabbitMQ 3.11 and older have no such policy")
    with servers_own_timeout(scripts.broker, 1_800_000):
        scripts.broker.set_policy(scripts.queue, **{"consumer-timeout": 1000})
        scripts.emit("task....")
        worker = scripts.worker("--max-tasks", 1)
        worker.ends()
    if scripts.broker.version < (4, 3):
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
    received = scripts.events("received")
    assert [record["delivery_count"] for record in received] == [0, 0]
    assert len(scripts.events("ack-lost")) == 2


def test_a_worker_whose_queue_is_deleted_says_so_and_declares_it_again(scripts: Scripts) -> None:
    scripts.emit("task...........")
    worker = scripts.worker()
    worker.shows("Received")
    scripts.broker.drop(scripts.queue)
    worker.shows(CANCELLED)
    worker.shows("Connected again")
    eventually(lambda: names(scripts) == {scripts.queue, scripts.dead_letters}, "it is there again")
