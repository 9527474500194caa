"""The short form of each scenario, and the checker against runs that went wrong."""

import contextlib
import random
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checker import Record, settle
from harness import Broker
from scenarios import LONG, OF_THE_NODE, SCENARIOS, Scenario
from stage import Skipped, Stage


def check(broker: Broker, folder: Path, name: str) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    stage = Stage(broker, folder, seed, is_full=False)
    with contextlib.closing(stage):
        SCENARIOS[name](stage)
    assert stage.account.tasks > 0
    assert stage.faults > 0


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in OF_THE_NODE | LONG])
def test_nothing_confirmed_is_lost(broker: Broker, tmp_path: Path, name: str) -> None:
    check(broker, tmp_path, name)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name in OF_THE_NODE])
def test_nor_is_it_when_that_is_done_to_rabbitmq(own_broker: Broker, tmp_path: Path, name: str) -> None:
    check(own_broker, tmp_path, name)


# ---- The full run


def a_few(stage: Stage) -> None:
    """A scenario in which nothing goes wrong."""
    stage.send(3)
    stage.faults += 1
    stage.drain()


def a_theft(stage: Stage) -> None:
    """One in which a task that is confirmed disappears."""
    stage.send(1)
    stage.broker.take(stage.queue, 1)
    stage.send(2)
    stage.drain()


@pytest.mark.parametrize(("scenario", "status", "end"), [(a_few, 0, ""), (a_theft, 1, "  FAILED")])
def test_the_full_run_closes_with_a_table(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lent_node: None,
    run_here: Callable[..., int],
    scenario: Scenario,
    status: int,
    end: str,
) -> None:
    monkeypatch.setitem(SCENARIOS, scenario.__name__, scenario)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_here("tests/faults/run.py", "--scenario", scenario.__name__, "--seed", "7") == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{scenario.__name__} --seed 7 ... {'FAILED' if end else 'holds'}")
    assert ("AssertionError: 1 lost, such as ['task 1']" in lines) == bool(end)
    *_, titles, _, row = lines
    assert re.fullmatch(r"RabbitMQ \d+\.\d+\.\d+ +\|   tasks \| faults \| lost \| twice \| seconds", titles)
    assert re.fullmatch(rf"{scenario.__name__} +\| +3 \| +{1 - status} \| +{status} \| +0 \| +\d+{end}", row)


def a_privilege(stage: Stage) -> None:
    """One that can't be played everywhere."""
    raise Skipped("it needs another machine")


def test_the_full_run_says_what_it_skips(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lent_node: None,
    run_here: Callable[..., int],
) -> None:
    monkeypatch.setitem(SCENARIOS, "a_privilege", a_privilege)
    assert run_here("tests/faults/run.py", "--scenario", "a_privilege", "--seed", "7") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a_privilege --seed 7 ... skipped: it needs another machine"
    assert re.fullmatch(r"a_privilege +\| +0 \| +0 \| +0 \| +0 \| +\d+  skipped", lines[-1])


def test_the_full_run_goes_on_at_random_until_its_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lent_node: None,
    run_here: Callable[..., int],
) -> None:
    monkeypatch.setitem(SCENARIOS, "a_few", a_few)
    arguments = ("--scenario", "a_few", "--seed", "7", "--minutes", "0.01")
    assert run_here("tests/faults/run.py", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a_few --seed 7 ... holds"
    assert lines[-1].split("|")[1].strip() == str(3 * len([line for line in lines if line.endswith("holds")]))


def test_whether_a_young_queue_is_kept_is_told(
    capsys: pytest.CaptureFixture[str], lent_node: None, run_here: Callable[..., int]
) -> None:
    """By a node that goes on; broker_killed shows what a killed one keeps."""
    assert run_here("tests/faults/young_queue.py", "--ages", "0") == 0
    assert re.fullmatch(r"RabbitMQ \d+\.\d+\.\d+: a queue of 0.0 s is kept\.\n", capsys.readouterr().out)


# ---- The checker


def records(event: str, *tasks: str) -> list[Record]:
    return [{"event": event, "task": task, "message_id": f"id of {task}"} for task in tasks]


TASKS = ["one", "two", "three"]
LOG = [*records("confirmed", *TASKS), *records("done", *TASKS)]
BOOK = records("", *TASKS)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({}, {}),
        ({"book": BOOK[1:]}, {"lost": ["one"], "untrue": ["one"]}),
        ({"book": [], "log": LOG[:3], "dead": ["one"], "left": ["two"]}, {"lost": ["three"]}),
        ({"book": BOOK[1:], "thrown_away": ["one"], "log": LOG[:3]}, {}),
        ({"book": [*BOOK, *BOOK[:2]]}, {"twice": 2}),
        ({"book": [*BOOK, {**BOOK[0], "message_id": "another"}]}, {"sent_twice": 1}),
        ({"log": LOG[1:]}, {"unsent": ["one"]}),
        ({"tasks": TASKS[1:], "log": LOG[1:3]}, {"unknown": ["one"]}),
        ({"book": BOOK[1:], "left": ["one"]}, {"untrue": ["one"]}),
    ],
)
def test_the_checker_finds_what_went_wrong(wrong: dict[str, Any], found: dict[str, object]) -> None:
    account = settle(**{"tasks": TASKS, "log": LOG, "book": BOOK, "dead": [], "left": [], **wrong})
    counts = {name: getattr(account, name) for name in ("lost", "unsent", "twice", "sent_twice", "unknown", "untrue")}
    assert {name: count for name, count in counts.items() if count} == found
    assert account.tasks == len(wrong.get("tasks", TASKS))
