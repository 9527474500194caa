#!/usr/bin/env python3
"""Puts the scripts through every fault at full load, and closes with a table of what became of the tasks.

    python3 tests/faults/run.py                                   all scenarios, about 25 minutes
    python3 tests/faults/run.py --scenario broker_killed --seed 7 one of them, with the dice of an earlier run
    python3 tests/faults/run.py --minutes 120                     one after another at random until the time is up
    python3 tests/faults/run.py --rabbitmq 4.3                    on another RabbitMQ than the installed one

Sets up what is missing first. Exit status 0 only if every promise held.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tools"), str(PROJECT / "tests")]

import debian_root  # noqa: E402
import installation  # noqa: E402
import machine  # noqa: E402


class Line:
    """What one scenario adds to the table."""

    def __init__(self) -> None:
        self.tasks = self.faults = self.lost = self.twice = 0
        self.seconds = 0.0
        self.version = ""  # of RabbitMQ
        self.has_failed = self.is_skipped = False

    def __str__(self) -> str:
        return f"{self.tasks:>7,} | {self.faults:>6,} | {self.lost:>4,} | {self.twice:>5,} | {self.seconds:>7.0f}"


def play(name: str, seed: int, line: Line) -> None:
    """Run a scenario on a RabbitMQ of its own, and add what came of it to its line of the table."""
    # Only here, because they need what is installed by then.
    from harness import Broker, TlsNode
    from scenarios import SCENARIOS
    from stage import Skipped, Stage

    machine.let_children_hear_signals()
    print(f"{name} --seed {seed} ... ", end="", flush=True)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    node = TlsNode(folder / "node")
    stage = Stage(Broker(node), folder, seed, is_full=True)
    has_failed = False
    try:
        node.start()
        stage.broker.shorten_waits()
        line.version = node.version
        SCENARIOS[name](stage)
        print("holds", flush=True)
    except Skipped as why:
        line.is_skipped = True
        print(f"skipped: {why}", flush=True)
    except Exception:
        line.has_failed = has_failed = True
        print(f"FAILED\n{traceback.format_exc()}Its files: {folder}", flush=True)
    finally:
        stage.close()
        node.kill()
        if not has_failed:
            shutil.rmtree(folder)
    line.tasks += stage.account.tasks
    line.faults += stage.faults
    line.lost += len(stage.account.lost)
    line.twice += stage.account.twice
    line.seconds += time.monotonic() - began


def show(lines: dict[str, Line]) -> None:
    """Print the table, under the version of the RabbitMQ that it tells of."""
    version = " ".join({line.version for line in lines.values() if line.version})
    print(f"\n{'RabbitMQ ' + version:19} |   tasks | faults | lost | twice | seconds")
    print("------------------- | ------: | -----: | ---: | ----: | ------:")
    for name, line in lines.items():
        end = "  FAILED" if line.has_failed else "  skipped" if line.is_skipped else ""
        print(f"{name:19} | {line}{end}")


def main() -> int:
    """Run the scenarios and return the exit status."""
    parser = argparse.ArgumentParser(description="Put the scripts through every fault at full load.")
    parser.add_argument("--scenario", metavar="NAME", help="only this one")
    parser.add_argument("--seed", type=int, help="the dice of an earlier run")
    parser.add_argument("--minutes", type=float, help="go on at random until the time is up")
    debian_root.add_option(parser)
    options = parser.parse_args()
    debian_root.choose(options.rabbitmq)
    installation.ensure_server()
    machine.run_in_venv("requirements.txt", "tests/requirements.txt")
    from scenarios import SCENARIOS

    if options.scenario not in (None, *SCENARIOS):
        parser.error(f"--scenario is one of {', '.join(SCENARIOS)}")
    names = [options.scenario] if options.scenario else list(SCENARIOS)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    lines: dict[str, Line] = {}
    status = 0
    try:
        if options.minutes is None:
            for name in names:
                play(name, seed, lines.setdefault(name, Line()))
        else:
            dice = random.Random(seed)
            deadline = time.monotonic() + 60 * options.minutes
            while time.monotonic() < deadline:
                name = dice.choice(names)
                play(name, seed, lines.setdefault(name, Line()))
                seed += 1
    except KeyboardInterrupt:
        print()
        status = 130
    show(lines)
    return 1 if any(line.has_failed for line in lines.values()) else status


if __name__ == "__main__":
    machine.run_main(main)
