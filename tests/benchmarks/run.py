#!/usr/bin/env python3
"""Measures the emitter and the worker beside their peers, on a RabbitMQ of its own, and draws a picture of it.

    python3 tests/benchmarks/run.py                       everything, over an hour: results.md and results.svg
    python3 tests/benchmarks/run.py --rabbitmq 4.3        the same on this RabbitMQ: results-4.3.md and results-4.3.svg
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

import debian_root  # noqa: E402
import installation  # noqa: E402
import machine  # noqa: E402
import rabbitmq  # noqa: E402

if TYPE_CHECKING:
    from bench import Results

RUNS, TASKS = 5, 50_000
AMONG_PEERS = ("publishers", "workers", "two_workers")
WITH_C, WITH_ALL = ("long_file",), ("makespans",)
WITH_PIKA_ALONE = (
    *("one_task", "latency", "scale", "uneven", "cluster"),
    *("dead_letters", "large", "depth", "many_queues", "slopes", "crowd"),
)
NAMES = (*AMONG_PEERS, *WITH_C, *WITH_PIKA_ALONE, *WITH_ALL)
# RabbitMQ 4 takes 16 MB by default, and a large task here is 100 MB.
CONFIG = "max_message_size = 134217728\n"


def set_up(only: str | None) -> None:
    """Install the peers that are measured, and go on in the virtual environment.

    Raises:
        machine.SetupError: something can't be installed without a question.
    """
    installation.ensure_server()
    requirements = ["requirements.txt", "tests/requirements.txt"]
    if only is None or only in (*AMONG_PEERS, *WITH_C, *WITH_ALL):
        if shutil.which("apt-get") and not (shutil.which("amqp-consume") and has_c_library()):
            machine.install("gcc", "libc6-dev", "librabbitmq-dev", "amqp-tools")
        if shutil.which("apt-get") and not shutil.which("redis-server"):
            machine.install("redis-server")
        requirements.append("tests/benchmarks/requirements.txt")
    machine.run_in_venv(*requirements)


def has_c_library() -> bool:
    """Tell whether C programs that use librabbitmq can be made here."""
    return bool(shutil.which("cc")) and Path("/usr/include/amqp.h").exists()


def about(runs: int, tasks: int, server: str) -> str:
    """Return on what was measured, with which versions."""
    from importlib.metadata import version

    packages = ("pika", "aio-pika", "celery", "kombu", "dramatiq", "rq")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{runs} rounds in turn, of {tasks:,} tasks of 40 bytes for the fast ones. Times and rates are the median of "
        "the rounds. A ratio is taken within each round; shown are the median of the rounds' ratios and their spread, "
        f"from the smallest to the largest. {os.cpu_count()} processors, with RabbitMQ {server} beside the scripts; "
        "quorum queues, persistent messages; "
        f"Python {platform.python_version()}, {versions}."
    )


def measure(names: list[str], runs: int, tasks: int) -> tuple[str, dict[str, Results], str]:
    """Run these measurements; return their tables, their figures, and RabbitMQ's version."""
    # Only here, because they need what is installed by then.
    from bench import Bench
    from harness import Broker
    from loads import MEASUREMENTS as LOADS
    from measurements import MEASUREMENTS

    machine.let_children_hear_signals()
    tables, figures = [], {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        node = rabbitmq.Node(Path(folder) / "node", config=CONFIG)
        try:
            node.start()
            every = {**MEASUREMENTS, **LOADS}
            for name in names:
                print(f"{name} ...", flush=True)
                bench = Bench(Broker(node), Path(folder))
                try:
                    text, figures[name] = every[name](bench, runs, tasks)
                except Exception as error:  # the others have taken an hour
                    text = f"Not measured: {error!r}"
                finally:
                    bench.broker.close()
                print(f"\n{text}\n", flush=True)
                tables.append(f"## {name}\n\n{every[name].__doc__}\n\n{text}\n")
        finally:
            node.kill()
    return "\n".join(tables), figures, node.version


def main() -> int:
    """Measure, and write down what was found."""
    parser = argparse.ArgumentParser(description="Measure the emitter and the worker beside their peers.")
    only_help = f"one measurement, told on the terminal only: {', '.join(NAMES)}"
    parser.add_argument("--only", choices=NAMES, metavar="NAME", help=only_help)
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"rounds (default: {RUNS})")
    parser.add_argument("--tasks", type=int, default=TASKS, metavar="N", help=f"of the fast ones (default: {TASKS})")
    debian_root.add_option(parser)
    options = parser.parse_args()
    debian_root.choose(options.rabbitmq)
    set_up(options.only)
    names = [options.only] if options.only else list(NAMES)
    text, figures, server = measure(names, options.runs, options.tasks)
    if options.only is None:
        from chart import DRAWN, draw

        results = HERE / (f"results-{options.rabbitmq}.md" if options.rabbitmq else "results.md")
        results.write_text(f"# Results\n\n{about(options.runs, options.tasks, server)}\n\n{text}")
        if figures.keys() >= DRAWN:
            draw(figures, results.with_suffix(".svg"))
    return 0 if figures.keys() == set(names) else 1


if __name__ == "__main__":
    machine.run_main(main)
