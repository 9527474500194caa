"""The measurements: what is compared with what, and the table that each of them makes."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from bench import PEERS, Bench, Results, in_turn, median, peak_memory, ratio, spread, table
from cluster import Cluster
from harness import PROJECT, eventually, records_in
from stage import Stage

PROGRAMS = Path(sys.executable).parent
EMITTER = "emitter_of_tasks.py"
WORKER = "listening_worker.py"
UNFAIR_WORKER = "work_pika_no_prefetch.py"
BARE = "pika BlockingConnection, bare callback"
C = "C, librabbitmq"
CORKED_C = "C, librabbitmq, corked by hand"

SECONDS_PER_DOT = 0.1  # of the tasks of `scale`
TASKS_PER_WORKER = 40
CROWDS = (1, 2, 4, 8, 16, 32, 64)
UNEVEN_WORKERS, UNEVEN_TASKS, UNEVEN_SECONDS_PER_DOT = 4, 100, 0.03


class Outcome(NamedTuple):
    """What a measurement found: a table, a sentence about it, and the figures for the picture."""

    text: str
    figures: Results


# ---- Publishers


class Peer(NamedTuple):
    """Another publisher.

    Attributes:
        script: in peers/.
        share: of the tasks it gets, so that the slow ones take seconds and not minutes.
        lacks: what it does not guarantee.
        declares: its queue itself, in its own way.
    """

    script: str
    share: float
    lacks: str = ""
    declares: bool = False


PUBLISHERS = {
    "pika SelectConnection, 1,000 unconfirmed": Peer(
        "publish_pika_select.py", 1, "gives up when its connection is lost"
    ),
    "pika BlockingConnection, no confirms": Peer("publish_pika_unconfirmed.py", 1, "may lose tasks, and not know"),
    "aio-pika, 1,000 gathered": Peer("publish_aio_pika.py", 0.4, "gives up when its connection is lost"),
    "kombu, confirms": Peer("publish_kombu.py", 0.1),
    "pika BlockingConnection, one confirm at a time": Peer(
        "publish_pika_blocking.py", 0.1, "gives up when its connection is lost"
    ),
    "Celery apply_async, confirms": Peer("publish_celery.py", 0.06, declares=True),
    "the course starter, a connection for each task": Peer(
        "publish_pika_starter.py", 0.01, "may lose tasks, and not know"
    ),
}
ONE_AT_A_TIME = "pika BlockingConnection, one confirm at a time"


def publishers(bench: Bench, runs: int, tasks: int) -> Outcome:
    """Measure whole processes that publish a file of tasks, from their start to their end."""

    def rate(command: Callable[[str, Path], list[str]], number: int, is_declared: bool = True) -> float:
        with bench.new_queue(is_declared) as queue:
            return number / bench.seconds(command(queue, bench.lines(number)))

    def peer(name: str) -> Callable[[], float]:
        script, share, _, declares = PUBLISHERS[name]
        number = max(1, round(tasks * share))
        return lambda: rate(
            lambda queue, file: bench.command(script, bench.broker.url, queue, file), number, not declares
        )

    def in_c(queue: str, file: Path) -> list[str]:
        return [bench.compiled("publish_c"), bench.broker.url, queue, str(file)]

    log = bench.folder / "emitter.jsonl"
    contenders: dict[str, Callable[[], float]] = {
        C: lambda: rate(in_c, tasks),
        CORKED_C: lambda: rate(lambda queue, file: [*in_c(queue, file), "corked"], tasks),
        EMITTER: lambda: rate(lambda _, file: bench.command(EMITTER, "--file", file), tasks),
        f"{EMITTER} with --log-file": lambda: rate(
            lambda _, file: bench.command(EMITTER, "--file", file, "--log-file", log), tasks
        ),
        **{name: peer(name) for name in PUBLISHERS},
    }
    found = in_turn(runs, contenders)
    gives_up = "gives up when its connection is lost"
    lacks = {C: gives_up, CORKED_C: gives_up, **{name: each.lacks for name, each in PUBLISHERS.items()}}
    rows = [
        [
            name,
            f"{median(found, name):,.0f}",
            f"{ratio(found, name, C):.3f}",
            spread(found, name, C),
            lacks.get(name, ""),
        ]
        for name in sorted(found, key=lambda name: -median(found, name))
    ]
    return Outcome(
        table(["publisher", "tasks/s", "to C", "spread", "what it does not promise"], rows)
        + f"\n\nTo one confirm at a time: {EMITTER} {ratio(found, EMITTER, ONE_AT_A_TIME):.1f}. "
        f"With a log: {ratio(found, f'{EMITTER} with --log-file', EMITTER):.2f} of its speed without.",
        found,
    )


def one_task(bench: Bench, runs: int, _tasks: int) -> Outcome:
    """Measure the emitter with one task beside a bare script that declares and publishes as much, from start to end.

    Also where Python may not write down what it has compiled (PYTHONDONTWRITEBYTECODE, as in many Docker images): it
    has pika compiled there, because pip has done that.
    """
    bare, not_compiled = "bare script", f"{EMITTER}, not compiled"
    copy = bench.folder / "not-compiled"
    shutil.copytree(PROJECT / "task_queue", copy / "task_queue", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / EMITTER, copy)

    def seconds(command: list[str]) -> float:
        return bench.seconds(command) * 1000

    with bench.new_queue() as queue:
        found = in_turn(
            8 * runs,
            {
                bare: lambda: seconds(bench.command("publish_one_pika.py", bench.broker.url, queue, "one task.")),
                EMITTER: lambda: seconds(bench.command(EMITTER, "--no-admin", "one", "task.")),
                not_compiled: lambda: seconds(
                    [sys.executable, "-B", str(copy / EMITTER), "--no-admin", "one", "task."]
                ),
                "import pika": lambda: seconds([sys.executable, "-c", "import pika"]),
            },
        )
    rows = [
        [name, f"{median(found, name):.0f} ms", f"{ratio(found, name, bare):.2f}", spread(found, name, bare, 2)]
        for name in found
    ]
    return Outcome(table(["one task", "whole process", "to the bare script", "spread"], rows), found)


# ---- Workers


def workers(bench: Bench, runs: int, tasks: int) -> Outcome:
    """Measure one worker with tasks that are no work, and its memory."""
    return compare_workers(bench, runs, tasks, 1)


def two_workers(bench: Bench, runs: int, tasks: int) -> Outcome:
    """Measure two workers on one queue."""
    return compare_workers(bench, runs, tasks, 2)


def compare_workers(bench: Bench, runs: int, tasks: int, crowd: int) -> Outcome:
    """Measure how fast so many workers of each kind empty a queue, and what memory one has had at most."""
    url = bench.broker.url
    memory: Results = {}
    # Few of the slow ones: a process for each task, or a second of start-up, makes no better figure with more.
    number = max(1, tasks // 10)
    log = bench.folder / "worker.jsonl"

    def by_url(script: str) -> Callable[[str], list[str]]:
        return lambda queue: bench.command(script, url, queue)

    def celery(pool: str) -> Callable[[str], list[str]]:
        names = iter(range(10**6))
        return lambda _: celery_worker(pool, 1, f"bench{next(names)}")

    def ours(*arguments: object) -> Callable[[str], list[str]]:
        return lambda _: bench.command(WORKER, "--seconds-per-dot", 0, *arguments)

    def rate(name: str, command: Callable[[str], list[str]], send: str = EMITTER, output: Path | None = None) -> float:
        with bench.new_queue(is_declared=send == EMITTER) as queue:
            one = bench.lines(1)
            message = bench.message_of(
                bench.command(EMITTER, "--file", one) if send == EMITTER else bench.command(send, url, queue, one)
            )
            bench.fill(message, number)
            with bench.running([command(queue) for _ in range(crowd)], output) as pids:
                found = bench.rate(crowd, number)
                memory.setdefault(name, []).append(max(map(peak_memory, pids)))
            return found

    output = bench.folder / "output.txt"
    kinds: dict[str, Callable[[str], float]] = {
        BARE: lambda name: rate(name, by_url("work_pika_blocking.py")),
        WORKER: lambda name: rate(name, ours()),
        f"{WORKER}, output in a file": lambda name: rate(name, ours(), output=output),
        f"{WORKER}, output in a file, --log-file": lambda name: rate(name, ours("--log-file", log), output=output),
        C: lambda name: rate(name, lambda queue: [bench.compiled("work_c"), url, queue]),
        "pika BlockingConnection, a thread for each task": lambda name: rate(name, by_url("work_pika_threads.py")),
        "aio-pika": lambda name: rate(name, by_url("work_aio_pika.py")),
        "Celery, solo pool": lambda name: rate(name, celery("solo"), "publish_celery.py"),
        "Celery, prefork pool": lambda name: rate(name, celery("prefork"), "publish_celery.py"),
        "dramatiq, one thread": lambda name: rate(name, lambda _: dramatiq_worker(1), "dramatiq_app.py"),
        "amqp-consume, a process for each task": lambda name: rate(
            name, lambda queue: ["amqp-consume", f"--url={url}", f"--queue={queue}", "--prefetch-count=1", "cat"]
        ),
    }
    found = in_turn(runs, {name: (lambda kind=kind, name=name: kind(name)) for name, kind in kinds.items()})
    loses = "loses its connection in a task longer than two heartbeats"
    lacks = {
        BARE: loses,
        C: loses,
        "Celery, solo pool": f"{loses}; a task that raises is acknowledged",
        "Celery, prefork pool": "a task that raises is acknowledged",
        "dramatiq, one thread": "no limit to the deliveries of a task that kills its worker",
        "amqp-consume, a process for each task": "a lost connection ends it",
    }
    rows = [
        [
            name,
            f"{median(found, name):,.0f}",
            f"{ratio(found, name, BARE):.2f}",
            spread(found, name, BARE, 2),
            f"{median(memory, name):.0f} MB",
            lacks.get(name, ""),
        ]
        for name in sorted(found, key=lambda name: -median(found, name))
    ]
    kind = "one worker" if crowd == 1 else f"{crowd} workers"
    columns = [kind, "tasks/s", "to bare", "spread", "memory of one", "what it does not promise"]
    return Outcome(table(columns, rows), found)


def celery_worker(pool: str, processes: int, name: str) -> list[str]:
    """Return the command of a Celery worker."""
    options = f"-A celery_app worker --pool {pool} --loglevel WARNING --concurrency {processes} --without-gossip"
    more = f"--without-mingle --without-heartbeat --hostname {name}@%h"
    return [str(PROGRAMS / "celery"), "--workdir", str(PEERS), *options.split(), *more.split()]


def dramatiq_worker(processes: int) -> list[str]:
    """Return the command of a dramatiq worker."""
    options = f"dramatiq_app --processes {processes} --threads 1 --skip-logging --path"
    return [str(PROGRAMS / "dramatiq"), *options.split(), str(PEERS)]


def latency(bench: Bench, runs: int, tasks: int) -> Outcome:
    """Measure the time from publishing a task to the start of its work on an idle worker."""
    number = max(20, tasks // 100)
    dice = random.Random(1)
    worst: Results = {}

    def middle(name: str, script: str) -> float:
        milliseconds = latencies(bench, script, number, dice)
        worst.setdefault(name, []).append(milliseconds[math.ceil(0.99 * number) - 1])
        return statistics.median(milliseconds)

    found = in_turn(
        runs,
        {
            BARE: lambda: middle(BARE, "latency_pika_blocking.py"),
            WORKER: lambda: middle(WORKER, "latency_ours.py"),
        },
    )
    rows = [
        [
            name,
            f"{median(found, name):.2f} ms",
            f"{ratio(found, name, BARE):.2f}",
            spread(found, name, BARE, 2),
            f"{median(worst, name):.2f} ms",
            f"{ratio(worst, name, BARE):.2f}",
        ]
        for name in found
    ]
    return Outcome(table(["publish to start of work", "median", "to bare", "spread", "99 %", "to bare"], rows), found)


def latencies(bench: Bench, script: str, number: int, dice: random.Random) -> list[float]:
    """Return the milliseconds from publishing to the start of the work, of so many tasks, the shortest first."""
    file = bench.folder / "latency.json"
    with (
        bench.new_queue() as queue,
        bench.channel() as channel,
        bench.running([bench.command(script, bench.broker.url, queue, file, number)]),
    ):
        bench.wait_for_workers(1)
        for _ in range(number):
            time.sleep(dice.uniform(0.004, 0.008))  # until the worker is idle again
            channel.basic_publish("", queue, str(time.monotonic_ns()).encode())
        eventually(file.exists, "the worker writes down what it saw")
        eventually(lambda: file.read_text().endswith("]"), "and ends")
    milliseconds = sorted(each / 1e6 for each in json.loads(file.read_text()))
    file.unlink()
    return milliseconds


# ---- Many workers


def scale(bench: Bench, runs: int, _tasks: int) -> Outcome:
    """Measure ever more workers on tasks of a tenth of a second, against what so many could do at best."""

    def excess(crowd: int) -> float:
        texts = [f"task {count} ." for count in range(crowd * TASKS_PER_WORKER)]
        taken = seconds_of_workers(bench, crowd, texts, WORKER, SECONDS_PER_DOT)
        return taken / (TASKS_PER_WORKER * SECONDS_PER_DOT)

    found = in_turn(runs, {f"{crowd}": (lambda crowd=crowd: excess(crowd)) for crowd in CROWDS})
    rows = [
        [
            name,
            f"{int(name) / SECONDS_PER_DOT / median(found, name):,.0f}",
            f"{median(found, name):.3f}",
            f"{min(found[name]):.3f} to {max(found[name]):.3f}",
        ]
        for name in found
    ]
    return Outcome(table(["workers", "tasks/s", "time, to tasks x seconds / workers", "spread"], rows), found)


def uneven(bench: Bench, runs: int, _tasks: int) -> Outcome:
    """Measure tasks of very different lengths, with prefetch 1 and dealt out in turn, against the best possible."""

    seeds = {script: itertools.count(1) for script in (WORKER, UNFAIR_WORKER)}

    def excess(script: str) -> float:
        dice = random.Random(next(seeds[script]))  # other tasks in each round, the same for both
        dots = [min(40, math.ceil(dice.paretovariate(0.9))) for _ in range(UNEVEN_TASKS)]
        texts = [f"task {count} {'.' * number}" for count, number in enumerate(dots)]
        # No schedule is shorter than an even share of the work, or than its longest task.
        bound = max(sum(dots) / UNEVEN_WORKERS, max(dots)) * UNEVEN_SECONDS_PER_DOT
        return seconds_of_workers(bench, UNEVEN_WORKERS, texts, script, UNEVEN_SECONDS_PER_DOT) / bound

    found = in_turn(
        runs, {"prefetch 1": lambda: excess(WORKER), "no prefetch: dealt out in turn": lambda: excess(UNFAIR_WORKER)}
    )
    rows = [[name, f"{median(found, name):.2f}", f"{max(found[name]):.2f}"] for name in found]
    columns = [f"{UNEVEN_TASKS} uneven tasks, {UNEVEN_WORKERS} workers", "time, to the best possible", "at worst"]
    return Outcome(table(columns, rows), {"the best possible": [1.0], **found})


def seconds_of_workers(bench: Bench, crowd: int, texts: list[str], script: str, seconds_per_dot: float) -> float:
    """Return how long so many workers took for these tasks, from the first's receipt to the last's end."""
    log = bench.folder / "crowd.jsonl"
    log.unlink(missing_ok=True)
    file = bench.folder / "crowd.txt"
    file.write_text("\n".join(texts))
    with bench.new_queue() as queue:
        commands = []
        for number in range(crowd):
            arguments: list[object] = ["--seconds-per-dot", seconds_per_dot, "--log-file", log]
            if script != WORKER:
                arguments = [bench.broker.url, queue, log, f"worker-{number}", seconds_per_dot]
            commands.append(bench.command(script, *arguments))
        with bench.running(commands):
            bench.wait_for_workers(crowd)
            bench.emit("--file", file)
            eventually(lambda: log.exists() and log.read_text().count('"done"') == len(texts), "all done", 600)
    times = [datetime.fromisoformat(record["time"]) for record in records_in(log)]
    return (max(times) - min(times)).total_seconds()


# ---- A cluster


def cluster(bench: Bench, runs: int, tasks: int) -> Outcome:
    """Measure the same on three nodes that keep each task on two at least: all on this machine, so at a worse price."""
    stage = Stage(bench.broker, bench.folder, 0, is_full=True)
    try:
        three = Bench(type(bench.broker)(Cluster(stage).nodes[0]), bench.folder)

        def sent(at: Bench) -> float:
            with at.new_queue():
                return tasks / at.seconds(at.command(EMITTER, "--file", at.lines(tasks)))

        def done(at: Bench) -> float:
            with at.new_queue():
                at.fill(at.message_of(at.command(EMITTER, "--file", at.lines(1))), tasks // 10)
                with at.running([at.command(WORKER, "--seconds-per-dot", 0)]):
                    return at.rate(1, tasks // 10)

        found = in_turn(
            runs,
            {
                "emitter, one node": lambda: sent(bench),
                "emitter, three nodes": lambda: sent(three),
                "worker, one node": lambda: done(bench),
                "worker, three nodes": lambda: done(three),
            },
        )
    finally:
        stage.close()
    rows = [
        [
            role,
            f"{median(found, f'{role}, one node'):,.0f}",
            f"{median(found, f'{role}, three nodes'):,.0f}",
            f"{ratio(found, f'{role}, three nodes', f'{role}, one node'):.2f}",
            spread(found, f"{role}, three nodes", f"{role}, one node", 2),
        ]
        for role in ("emitter", "worker")
    ]
    return Outcome(table(["tasks/s", "one node", "three nodes", "ratio", "spread"], rows), found)


MEASUREMENTS: dict[str, Callable[[Bench, int, int], Outcome]] = {
    each.__name__: each for each in (publishers, workers, two_workers, one_task, latency, scale, uneven, cluster)
}
