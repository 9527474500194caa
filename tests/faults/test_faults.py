"""The short form of each scenario, and the checker against runs that went wrong."""

import contextlib
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checker import Record, settle
from harness import PROJECT, Broker, Run, copy_project
from stage import Stage
from surroundings import OF_THE_NODE, SCENARIOS


@contextlib.contextmanager
def stage_at(broker: Broker, folder: Path) -> Iterator[Stage]:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    stage = Stage(broker, folder, seed, is_full=False)
    try:
        yield stage
    finally:
        stage.end()


@pytest.fixture
def stage(broker: Broker, tmp_path: Path) -> Iterator[Stage]:
    with stage_at(broker, tmp_path) as it:
        yield it


@pytest.fixture
def own_stage(own_broker: Broker, tmp_path: Path) -> Iterator[Stage]:
    with stage_at(own_broker, tmp_path) as it:
        yield it


def check(stage: Stage, name: str) -> None:
    SCENARIOS[name](stage)
    assert stage.account.tasks > 0
    assert stage.faults > 0


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in OF_THE_NODE])
def test_nothing_confirmed_is_lost(stage: Stage, name: str) -> None:
    check(stage, name)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name in OF_THE_NODE])
def test_nor_is_it_when_that_is_done_to_rabbitmq(own_stage: Stage, name: str) -> None:
    check(own_stage, name)


def test_the_full_run_closes_with_a_table(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "tests/faults/run.py"), "--scenario", "poison", "--seed", "7"]
    run = Run([*command, "--minutes", "0.01"], tmp_path, dict(os.environ)).ends(within=100)
    assert run.lines[0] == "poison --seed 7 ... holds"
    assert run.lines[2].split(" | ")[1:] == ["  tasks", "faults", "lost", "twice", "seconds"]
    assert re.match(r"RabbitMQ \d+\.\d+\.\d+ +\|", run.lines[2])
    assert [cell.strip() for cell in run.lines[4].split("|")[:5]] == ["poison", "202", "21", "0", "0"]


def test_a_queue_of_some_seconds_survives_its_node(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "tests/faults/young_queue.py"), "--ages", "5"]
    run = Run(command, tmp_path, {**os.environ, "TMPDIR": str(tmp_path)}).ends(within=100)
    assert re.fullmatch(r"RabbitMQ \d+\.\d+\.\d+: a queue of 5.0 s is kept\.\n", run.out)


def test_the_full_run_says_when_a_promise_is_broken(tmp_path: Path) -> None:
    """With an emitter that reports as confirmed what it never sends."""
    copy = tmp_path / "copy"
    copy_project(copy)
    publisher = copy / "task_queue" / "publisher.py"
    text = publisher.read_text()
    honest = "            window.unconfirmed[window.next_tag] = message\n"
    assert honest in text
    settled = "window.settled.append((message, None))"
    dishonest = f"            if message.line == 30:\n                {settled}\n                continue\n"
    publisher.write_text(text.replace(honest, dishonest + honest))
    command = [sys.executable, str(copy / "tests/faults/run.py"), "--scenario", "output_lost"]
    run = Run(command, tmp_path, {**os.environ, "TMPDIR": str(tmp_path)})
    assert run.process.wait(100) == 1
    assert "AssertionError: 1 lost, such as ['task 30']" in run.out
    assert run.lines[-1].endswith("FAILED")


# ---- The checker


def records(event: str, *tasks: str) -> list[Record]:
    return [{"event": event, "task": task, "message_id": f"id of {task}"} for task in tasks]


TASKS = ["one", "two", "three"]
LOG = [*records("confirmed", *TASKS), *records("done", *TASKS)]
BOOK = records("", *TASKS)


def test_the_checker_counts_a_good_run() -> None:
    account = settle(TASKS, LOG, BOOK, [], [])
    assert (account.tasks, account.lost, account.unsent, account.twice, account.sent_twice) == (3, [], [], 0, 0)
    assert (account.unknown, account.untrue) == ([], [])


def test_the_checker_finds_a_lost_task() -> None:
    assert settle(TASKS, LOG, BOOK[1:], [], []).lost == ["one"]
    assert settle(TASKS, LOG, [], ["one"], ["two"]).lost == ["three"]


def test_the_checker_finds_a_task_done_twice() -> None:
    assert settle(TASKS, LOG, [*BOOK, *BOOK[:2]], [], []).twice == 2


def test_the_checker_tells_done_twice_from_sent_twice() -> None:
    again = [{**BOOK[0], "message_id": "another"}]
    account = settle(TASKS, LOG, [*BOOK, *again], [], [])
    assert (account.twice, account.sent_twice) == (0, 1)


def test_the_checker_finds_a_task_never_confirmed() -> None:
    assert settle(TASKS, LOG[1:], BOOK, [], []).unsent == ["one"]


def test_the_checker_finds_what_was_never_sent() -> None:
    assert settle(TASKS[1:], LOG[1:3], BOOK, [], []).unknown == ["one"]


def test_the_checker_finds_a_worker_that_reports_what_it_did_not_do() -> None:
    account = settle(TASKS, LOG, BOOK[1:], [], ["one"])
    assert (account.lost, account.untrue) == ([], ["one"])
