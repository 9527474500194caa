#!/usr/bin/env python3
"""Measures the emitter and the worker beside their peers, on a RabbitMQ of its own, and draws a picture of it.

    python3 tests/benchmarks/run.py                       everything, about half an hour: results.md and results.svg
    python3 tests/benchmarks/run.py --only latency        one measurement, told on the terminal only
    python3 tests/benchmarks/run.py --runs 3 --tasks 5000 fewer rounds, of fewer tasks

Sets up what is missing first. Let the machine do nothing else meanwhile, and look at the ratios: rates are those of one
machine on one day.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
sys.path[:0] = [str(PROJECT), *(str(PROJECT / name) for name in ("tools", "tests", "tests/faults"))]

import installation  # noqa: E402
import machine  # noqa: E402
import rabbitmq  # noqa: E402

if TYPE_CHECKING:
    from bench import Results

RUNS, TASKS = 5, 50_000
AMONG_PEERS = ("publishers", "workers", "two_workers")
WITH_PIKA_ALONE = ("one_task", "latency", "scale", "uneven", "cluster")
NAMES = (*AMONG_PEERS, *WITH_PIKA_ALONE)


def set_up(only: str | None) -> None:
    """Install the peers that are measured, and go on in the virtual environment.

    Raises:
        machine.SetupError: something can't be installed without a question.
    """
    installation.ensure_server()
    requirements = ["requirements.txt", "tests/requirements.txt"]
    if only is None or only in AMONG_PEERS:
        if shutil.which("apt-get") and not (shutil.which("amqp-consume") and has_c_library()):
            machine.install("gcc", "libc6-dev", "librabbitmq-dev", "amqp-tools")
        requirements.append("tests/benchmarks/requirements.txt")
    machine.run_in_venv(*requirements)


def has_c_library() -> bool:
    """Tell whether C programs that use librabbitmq can be made here."""
    return bool(shutil.which("cc")) and Path("/usr/include/amqp.h").exists()


def about(runs: int, tasks: int) -> str:
    """Return on what was measured, with which versions."""
    from importlib.metadata import version

    packages = ("pika", "aio-pika", "celery", "kombu", "dramatiq")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{runs} rounds in turn, of {tasks:,} tasks of 40 bytes for the fast ones; middle figures, and middle ratios "
        "within a round. "
        f"{os.cpu_count()} processors, with RabbitMQ beside the scripts; quorum queues, persistent messages; "
        f"Python {platform.python_version()}, {versions}."
    )


def measure(names: list[str], runs: int, tasks: int) -> tuple[str, dict[str, Results]]:
    """Run these measurements; return their tables, and their figures."""
    # Only here, because they need what is installed by then.
    from bench import Bench
    from harness import Broker
    from measurements import MEASUREMENTS

    machine.let_children_hear_signals()
    tables, figures = [], {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        node = rabbitmq.Node(Path(folder) / "node")
        try:
            node.start()
            for name in names:
                print(f"{name} ...", flush=True)
                bench = Bench(Broker(node), Path(folder))
                text, figures[name] = MEASUREMENTS[name](bench, runs, tasks)
                print(f"\n{text}\n", flush=True)
                tables.append(f"## {name}\n\n{MEASUREMENTS[name].__doc__}\n\n{text}\n")
        finally:
            node.kill()
    return "\n".join(tables), figures


def main() -> int:
    """Measure, and write down what was found."""
    parser = argparse.ArgumentParser(description="Measure the emitter and the worker beside their peers.")
    only_help = f"one measurement, told on the terminal only: {', '.join(NAMES)}"
    parser.add_argument("--only", choices=NAMES, metavar="NAME", help=only_help)
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"rounds (default: {RUNS})")
    parser.add_argument("--tasks", type=int, default=TASKS, metavar="N", help=f"of the fast ones (default: {TASKS})")
    options = parser.parse_args()
    set_up(options.only)
    text, figures = measure([options.only] if options.only else list(NAMES), options.runs, options.tasks)
    if options.only is None:
        from chart import draw

        (HERE / "results.md").write_text(f"# Results\n\n{about(options.runs, options.tasks)}\n\n{text}")
        draw(figures, HERE / "results.svg")
    return 0


if __name__ == "__main__":
    machine.run_main(main)
