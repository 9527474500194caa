#!/usr/bin/env python3
"""Measures this checkout beside another one, in pairs, on a RabbitMQ of its own: what a change has cost or brought.

    git worktree add ../before HEAD~9
    python3 tests/benchmarks/pairs.py ../before              20 pairs, about ten minutes
    python3 tests/benchmarks/pairs.py ../before --pairs 5 --tasks 5000    less of it

Sets up what is missing first. Let the machine do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
sys.path[:0] = [str(PROJECT), *(str(PROJECT / name) for name in ("tools", "tests", "tests/faults"))]

import installation  # noqa: E402
import machine  # noqa: E402
import rabbitmq  # noqa: E402

if TYPE_CHECKING:
    from bench import Bench

PAIRS, TASKS = 20, 50_000  # tasks of the emitter; a tenth of it for the worker
LATENCIES = 100


def measurements(bench: Bench, tasks: int) -> dict[str, Callable[[], float]]:
    """Return what is measured of a checkout; in all of it less is better."""
    from bench import median, peak_memory
    from measurements import latencies

    memory: list[float] = []

    def emitter() -> float:
        with bench.new_queue():
            return bench.seconds(bench.command("emitter_of_tasks.py", "--file", bench.lines(tasks)))

    def worker() -> float:
        with bench.new_queue():
            bench.emit("--file", bench.lines(tasks // 10))
            with bench.running([bench.command("listening_worker.py", "--seconds-per-dot", 0)]) as pids:
                seconds = 1 / bench.rate(1, tasks // 10)
                memory.append(max(map(peak_memory, pids)))
                return seconds * 1e6

    def one_task() -> float:
        with bench.new_queue():
            return bench.seconds(bench.command("emitter_of_tasks.py", "--no-admin", "one", "task.")) * 1000

    return {
        f"emitter, {tasks:,} tasks (s)": emitter,
        "emitter, one task (ms)": one_task,
        "worker, a task that finishes at once (us)": worker,
        "worker, memory (MB)": memory.pop,
        "latency (ms)": lambda: median({"": latencies(bench, "latency_ours.py", LATENCIES, random.Random(1))}, ""),
    }


def compare(other: Path, pairs: int, tasks: int) -> None:
    """Measure both in turn, and print the middle figures, and the middle one of the pairs' ratios."""
    from bench import Bench, Results, in_turn, median, ratio, table
    from harness import Broker

    with tempfile.TemporaryDirectory(prefix="pairs-") as folder:
        node = rabbitmq.Node(Path(folder) / "node")
        try:
            node.start()
            before, after = (Bench(Broker(node), Path(folder), project) for project in (other, PROJECT))
            contenders: dict[str, Callable[[], float]] = {}
            names = list(measurements(after, tasks))
            for (name, measure), then in zip(measurements(after, tasks).items(), measurements(before, tasks).values()):
                contenders |= {f"before: {name}": then, f"after: {name}": measure}
            found: Results = in_turn(pairs, contenders)
        finally:
            node.kill()
    rows = [
        [
            name,
            f"{median(found, f'before: {name}'):.4g}",
            f"{median(found, f'after: {name}'):.4g}",
            f"{ratio(found, f'after: {name}', f'before: {name}'):.3f}",
        ]
        for name in names
    ]
    print(table([f"{pairs} pairs", "before", "after", "ratio"], rows))


def main() -> int:
    """Compare, and return the exit status."""
    parser = argparse.ArgumentParser(description="Measure this checkout beside another one.")
    parser.add_argument("other", type=Path, metavar="CHECKOUT", help="the folder of the other one")
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help=f"(default: {PAIRS})")
    parser.add_argument("--tasks", type=int, default=TASKS, metavar="N", help=f"of the emitter (default: {TASKS})")
    options = parser.parse_args()
    if not (options.other / "emitter_of_tasks.py").is_file():
        parser.error(f"{options.other} is no checkout of this project")
    installation.ensure_server()
    machine.run_in_venv("requirements.txt", "tests/requirements.txt")
    compare(options.other.resolve(), options.pairs, options.tasks)
    return 0


if __name__ == "__main__":
    machine.run_main(main)
