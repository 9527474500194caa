"""What differs from one RabbitMQ to the next, as docs/versions.md has it: run with `tools/test.py --rabbitmq`."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
from collections.abc import Iterator

import pika
import pytest
from harness import Broker, Scripts, eventually
from relay import Relay

from task_queue import queues

DAY = 86_400_000  # milliseconds


def declare_as_before(scripts: Scripts) -> None:
    """Declare both queues as the scripts did before they knew of 4.3."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(scripts.broker.url))) as connection:
        queues.declare_queues(connection.channel()._impl, scripts.queue, {}, then=lambda: None)
        eventually(lambda: connection.process_data_events(0) or declared(scripts), "both are there")


def declared(scripts: Scripts) -> dict[str, dict[str, object]]:
    """Return the arguments of both queues, if they are there."""
    found = {queue["name"]: queue["arguments"] for queue in scripts.broker.api("GET", "queues/%2F")}
    names = (scripts.queue, scripts.dead_letters)
    return {name: found[name] for name in names} if found.keys() >= {*names} else {}


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
    for _ in range(2):
        terminal = scripts.at_terminal("listening_worker.py")
        terminal.expect("Received")
        terminal.sendintr()
        terminal.expect("Stopped")
    scripts.start("listening_worker.py", "--max-tasks", 1, "--run", "false", "--log-file", scripts.log).ends()
    counted = 0 if scripts.broker.version >= (4, 3) else 2
    assert scripts.events("received")[0]["delivery_count"] == counted


def have_dead_letter_back(scripts: Scripts) -> None:
    """Have a task fail too often, and moved back to the queue."""
    scripts.emit("task")
    scripts.work("--run", "false")
    scripts.emit("--retry-dead-letters")
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 1, "it is back")


def test_a_dead_letter_that_went_back_has_all_its_tries_again_or_one_more(scripts: Scripts) -> None:
    have_dead_letter_back(scripts)
    worker = scripts.work("--run", "false")
    expected = {(4, 3): ("one more try", 1), (4, 0): ("try 2 of 21", 21), (3, 10): ("try 1 of 21", 21)}
    words, tries = next(row for version, row in expected.items() if scripts.broker.version >= version)
    failed = [line for line in worker.lines if "Failed" in line]
    assert failed[0] == f" [!] Failed ({words}): false ended with exit status 1"
    assert len(failed) == tries
    assert "dead letter now" in worker.out


@pytest.mark.parametrize("ends_by", ["Ctrl+C", "no program"])
def test_what_has_no_more_tries_and_is_handed_back_is_called_a_dead_letter(scripts: Scripts, ends_by: str) -> None:
    have_dead_letter_back(scripts)
    program = scripts.folder / "program"
    program.write_text("#!/no/such/program\n" if ends_by == "no program" else "#!/bin/sh\necho ready; sleep 60\n")
    program.chmod(0o755)
    worker = scripts.start("listening_worker.py", "--run", str(program))
    if ends_by == "Ctrl+C":
        worker.shows("ready")
        worker.send(signal.SIGINT)
    worker.ends(int(ends_by != "Ctrl+C"))
    if scripts.broker.version >= (4, 3):
        assert "[*] Not finished, and has no more tries, so it is a dead letter now: task" in worker.out
        eventually(lambda: scripts.broker.counts(scripts.dead_letters)[0] == 1, "so it is")
    else:
        assert "[*] Not finished, so it goes back to the queue: task" in worker.out
        eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 1, "so it does")


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
    waiting.broker.declare(waiting.queue, **queues._arguments(20, waiting.dead_letters), **times)
    waiting.emit("task")
    waiting.start("listening_worker.py", "--max-tasks", 1, "--run", "false").ends()
    run = waiting.work("--run", "true")
    assert ("Received" not in run.out) == has_waits


# ---- Arguments of a queue that is there


def test_an_older_queue_is_used_as_it_is_and_the_policy_that_mends_it_is_told(scripts: Scripts) -> None:
    scripts.broker.drop(scripts.queue)
    declare_as_before(scripts)
    before = declared(scripts)
    emitter = scripts.emit("task")
    worker = scripts.start("listening_worker.py", "--max-tasks", 1, "--run", "false").ends()
    assert declared(scripts) == before
    assert " [x] Sent task" in emitter.out
    if scripts.broker.version < (4, 3):
        assert emitter.err == worker.err == ""
        return
    for run in (emitter, worker):
        assert run.err.count("an older version of this one: x-consumer-timeout, x-delayed-retry-type, ") == 1
    assert "; again in" not in worker.out
    (command,) = re.findall("sudo rabbitmqctl (.*)  \\(in Docker", worker.err)
    scripts.broker.node.ctl(*shlex.split(command), "--priority", "9")

    def policy() -> dict[str, object]:
        in_force = scripts.broker.api("GET", f"queues/%2F/{scripts.queue}").get("effective_policy_definition") or {}
        return {f"x-{name}": value for name, value in in_force.items()}

    eventually(lambda: policy() == queues.TIMES, "it is in force")
    again = scripts.emitter("another")  # and goes on saying so, as it can't see policies
    assert "Sent another" in again.ends().out


@pytest.mark.parametrize("own", [{}, {"x-consumer-timeout": 7_200_000, "x-delayed-retry-type": "all"}])
@pytest.mark.parametrize("other", ["x-dead-letter-routing-key", "x-queue-type"])
def test_a_queue_with_really_other_settings_is_refused_still(
    scripts: Scripts, own: dict[str, object], other: str
) -> None:
    arguments: dict[str, object] = {"x-queue-type": "classic"}  # which takes no others of ours
    if other != "x-queue-type":
        arguments = {**queues._arguments(20, scripts.dead_letters), **own, other: "elsewhere"}
    scripts.broker.declare(scripts.queue, **arguments)
    for script in ("emitter_of_tasks.py", "listening_worker.py"):
        run = scripts.start(script, *(["task"] * (script == "emitter_of_tasks.py"))).ends(1)
        assert f"Queue {scripts.queue} has other settings" in run.err
        assert "older version" not in run.err


def test_a_queue_with_other_times_is_used_with_those(scripts: Scripts) -> None:
    own = {"x-consumer-timeout": 7_200_000, "x-delayed-retry-type": "all", "x-delayed-retry-min": 1}
    scripts.broker.declare(scripts.queue, **queues._arguments(20, scripts.dead_letters), **own)
    scripts.emit("task")
    assert " [x] Done." in scripts.work().lines
    assert declared(scripts)[scripts.queue].items() >= own.items()


@pytest.mark.parametrize("name", ["with \"quotes\" and 'others'", "long" * 40])
def test_an_older_queue_is_known_by_any_name(scripts: Scripts, name: str) -> None:
    """RabbitMQ cuts its words off at 255 bytes."""
    scripts.queue, scripts.dead_letters = f"{scripts.queue} {name}", f"{scripts.queue} {name}.dead-letters"
    scripts.environment["TASK_QUEUE"] = scripts.queue
    declare_as_before(scripts)
    scripts.emit("task")
    assert " [x] Done." in scripts.work().lines


def test_a_burst_waits_for_the_next_try_in_an_older_queue_with_the_policy_too(waiting: Scripts) -> None:
    declare_as_before(waiting)
    if waiting.broker.version >= (4, 3):
        times = {"delayed-retry-type": "failed", "delayed-retry-min": 1000, "delayed-retry-max": 1000}
        waiting.broker.set_policy(waiting.queue, **times)
    for text in ("same", "same"):
        waiting.broker.publish(waiting.queue, text.encode())
    fails_twice = "sh -c 'test -e second && exit 0; test -e first && touch second; touch first; exit 1'"
    run = waiting.work("--run", fails_twice)
    assert run.lines.count(" [x] Done.") == 2
    assert "; again in" not in run.out  # what a policy says is not known here


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
    assert f"\nGive tasks more time in rabbitmq.conf:  consumer_timeout = {DAY}\n" in worker.err


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
        assert "'{\"consumer-timeout\": 86400000}'" in worker.err
    else:  # what the worker says rules
        assert worker.err == ""


def test_a_task_that_is_always_too_long_for_its_ack_timeout_is_named_so(scripts: Scripts) -> None:
    if scripts.broker.version < (4, 3):
        pytest.skip("before RabbitMQ 4.3 a consumer can't say how long it may take")
    scripts.emit("task......")
    worker = scripts.worker("--ack-timeout", "0.001", "--log-file", scripts.log, "--max-tasks", 2)
    worker.ends(within=30)
    told = re.findall("it has taken the task back after ([34]) s. Give tasks more time with --ack-timeout", worker.err)
    assert told
    assert worker.err.count("goes round for ever") == 1
    assert "was deleted" not in worker.err
    received = scripts.events("received")
    assert [record["delivery_count"] for record in received] == [0, 0]
    assert len(scripts.events("ack-lost")) == 2


def test_a_task_that_ends_just_after_its_timeout_is_named_so_too(scripts: Scripts) -> None:
    """RabbitMQ is asked meanwhile whether the queue is there."""
    if scripts.broker.version < (4, 3):
        pytest.skip("before RabbitMQ 4.3 a consumer can't say how long it may take")
    scripts.emit("task")
    command = "sh -c 'sleep 3.75'"  # 3.6 are allowed, and 3.9 is when it is asked
    worker = scripts.worker("--ack-timeout", "0.001", "--run", command, "--max-tasks", 2)
    worker.ends(within=30)
    assert "it has taken the task back after 4 s. Give tasks more time with --ack-timeout" in worker.err
    assert worker.err.count("goes round for ever") == 1
    assert "deleted" not in worker.err


def test_a_queue_that_is_deleted_is_not_taken_for_a_timeout(scripts: Scripts) -> None:
    scripts.emit("task...........")
    worker = scripts.worker()
    worker.shows("Received")
    scripts.broker.drop(scripts.queue)
    worker.shows(f"Queue {scripts.queue} was deleted, and is declared again.")
    worker.shows("Connected again")
    assert "ack-timeout" not in worker.err
