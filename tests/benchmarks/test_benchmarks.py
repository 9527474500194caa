"""The benchmark's own parts: its command, and its arithmetic. How fast anything is, no test asks."""

import re
from collections.abc import Callable
from pathlib import Path

import pika
import pytest
from bench import Message, in_turn, ratio, spread, table
from harness import PROJECT
from loads import MEASUREMENTS as LOADS
from measurements import MEASUREMENTS


def test_one_measurement_is_told_on_the_terminal(
    capsys: pytest.CaptureFixture[str], lent_node: None, run_here: Callable[..., int]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in (PROJECT / "tests/benchmarks").glob("results.*")}
    assert run_here("tests/benchmarks/run.py", "--only", "latency", "--runs", "1", "--tasks", "100") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0] == ["publish to start of work", "median", "to bare", "spread", "99 %", "to bare"]
    assert rows[1] == ["---", "---:", "---:", "---:", "---:", "---:"]
    assert [row[0] for row in rows[2:]] == ["pika BlockingConnection, bare callback", "listening_worker.py"]
    assert rows[2][2:4] + rows[2][5:] == ["1.00", "1.00 to 1.00", "1.00"]
    assert all(re.fullmatch(r"\d+\.\d\d ms", row[1]) and 0 < float(row[1].split()[0]) < 1000 for row in rows[2:])
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_what_is_no_checkout_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, run_here: Callable[..., int]
) -> None:
    assert run_here("tests/benchmarks/pairs.py", str(tmp_path)) == 2
    assert "is no checkout of this project" in capsys.readouterr().err


def test_an_unknown_measurement_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], run_here: Callable[..., int]
) -> None:
    assert run_here("tests/benchmarks/run.py", "--only", "fastest") == 2
    said = capsys.readouterr().err
    assert "invalid choice: 'fastest'" in said
    assert all(repr(name) in said for name in {**MEASUREMENTS, **LOADS})


def test_contenders_take_turns_and_ratios_are_of_one_round() -> None:
    order: list[str] = []
    speeds = {"slow": iter([1.0, 10.0, 2.0]), "fast": iter([2.0, 30.0, 8.0])}

    def contender(name: str) -> float:
        order.append(name)
        return next(speeds[name])

    found = in_turn(3, {"slow": lambda: contender("slow"), "fast": lambda: contender("fast")})
    assert order == ["slow", "fast"] * 3
    assert ratio(found, "fast", to="slow") == 3.0
    assert spread(found, "fast", to="slow", digits=1) == "2.0 to 4.0"


def test_a_message_gets_a_new_id_wherever_its_publisher_put_it() -> None:
    old = "0c2ab75e-dc04-4e5e-9c1a-0f6f6e3a8f11"
    properties = pika.BasicProperties(message_id=old, delivery_mode=2, headers={"id": old, "retries": 0})
    new = Message(properties, f'{{"message_id": "{old}"}}'.encode()).with_new_id()
    new_id = new.properties.message_id
    assert new_id != old
    assert new.properties.headers == {"id": new_id, "retries": 0}
    assert new.body == f'{{"message_id": "{new_id}"}}'.encode()
    assert new.properties.delivery_mode == 2
    assert properties.message_id == old


def test_numbers_stand_on_the_right_of_a_table() -> None:
    assert table(["who", "how many"], [["we", "1,000"]]) == "| who | how many |\n| --- | ---: |\n| we | 1,000 |"
