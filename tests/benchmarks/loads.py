"""The measurements of large loads: long files, large tasks, deep and many queues, and the time until all is done."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import rabbitmq
from bench import PEERS, Bench, Message, Results, in_turn, median, rates, ratio, spread, table
from harness import eventually
from measurements import EMITTER, PROGRAMS, WORKER, C, Outcome, celery_worker, dramatiq_worker

LONG = 20  # times as many tasks as the other measurements have
LARGE, LARGE_TASKS = 100_000_000, 3  # bytes
DEPTHS = (5_000, 1_000_000)
TASKS_AT_DEPTH = 1_000
MANY_QUEUES, TASKS_EACH = 20, 500
CROWD, TASKS_PER_WORKER, LONG_TASK = 200, 5, 1.0  # seconds
MAKESPAN_TASKS, MAKESPAN_SECONDS, MAKESPAN_CROWDS = 1_000, 0.005, (1, 2, 8, 32)


def long_file(bench: Bench, runs: int, tasks: int) -> Outcome:
    """Measure whole processes that publish a long file, in which starting up hardly counts."""
    number = LONG * tasks

    def rate(command: Callable[[str], list[str]]) -> float:
        with bench.new_queue() as queue:
            return number / bench.seconds(command(queue))

    file = bench.lines(number)
    found = in_turn(
        runs,
        {
            C: lambda: rate(lambda queue: [bench.compiled("publish_c"), bench.broker.url, queue, str(file)]),
            EMITTER: lambda: rate(lambda _: bench.command(EMITTER, "--file", file)),
        },
    )
    return Outcome(table([f"{number:,} tasks", "tasks/s", "to C", "spread"], rates(found, C, 3)), found)


def dead_letters(bench: Bench, runs: int, tasks: int) -> Outcome:
    """Measure how fast dead letters are back in their queue, beside the emitter with as many tasks."""
    number = tasks // 5

    def sent() -> float:
        with bench.new_queue():
            return number / bench.seconds(bench.command(EMITTER, "--file", bench.lines(number)))

    def moved() -> float:
        with bench.new_queue() as queue:
            message = bench.message_of(bench.command(EMITTER, "--file", bench.lines(1)))
            bench.fill(message, number, f"{queue}.dead-letters")
            began = time.perf_counter()
            bench.seconds(bench.command(EMITTER, "--retry-dead-letters"))
            # RabbitMQ moves them on behind the emitter's back, so the end is when the queue has them all.
            eventually(lambda: bench.broker.counts(queue)[0] == number, "all letters are back", 600)
            return number / (time.perf_counter() - began)

    back = f"{EMITTER} --retry-dead-letters"
    found = in_turn(runs, {EMITTER: sent, back: moved})
    columns = [f"{number:,} tasks", "tasks/s", "to the emitter", "spread"]
    return Outcome(table(columns, rates(found, EMITTER, 2)), found)


def large(bench: Bench, runs: int, _tasks: int) -> Outcome:
    """Measure time and memory of whole processes that send one task of 100 MB, or take three that are no work."""
    bare = "bare pika"
    memory: Results = {}

    def seconds(name: str, command: list[str]) -> float:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=bench.environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, command
        memory.setdefault(name, []).append(usage.ru_maxrss / 1000)
        return time.perf_counter() - began

    def file_of(content: str) -> Path:
        file = bench.folder / f"large-{content}"
        if not file.exists():
            piece = b"a task " if content == "text" else os.urandom(1 << 16).translate(None, b".\n\r")
            file.write_bytes((piece * (LARGE // len(piece) + 1))[:LARGE] + b"\n")
        return file

    def send(name: str) -> float:
        with bench.new_queue() as queue:
            if name.startswith(bare):
                return seconds(name, bench.command("large_pika.py", "send", bench.broker.url, queue, file_of("text")))
            return seconds(name, bench.command(EMITTER, "--file", file_of("text")))

    def take(name: str, content: str) -> float:
        with bench.new_queue() as queue:
            for _ in range(LARGE_TASKS):
                bench.seconds(bench.command("large_pika.py", "send", bench.broker.url, queue, file_of(content)))
            if name.startswith(bare):
                return seconds(name, bench.command("large_pika.py", "take", bench.broker.url, queue, LARGE_TASKS))
            command = bench.command(WORKER, "--seconds-per-dot", 0, "--max-tasks", LARGE_TASKS)
            return seconds(name, command)

    contenders: dict[str, Callable[[], float]] = {}
    pairs = {}
    for what, ours, measure in (
        ("sent", EMITTER, send),
        ("taken, text", WORKER, lambda name: take(name, "text")),
        ("taken, random bytes", WORKER, lambda name: take(name, "random")),
    ):
        pairs[f"{ours}, {what}"] = f"{bare}, {what}"
        for name in (f"{bare}, {what}", f"{ours}, {what}"):
            contenders[name] = lambda measure=measure, name=name: measure(name)
    found = in_turn(runs, contenders)
    rows = [
        [
            name,
            f"{median(found, name):.2f} s",
            f"{ratio(found, name, other):.2f}",
            spread(found, name, other, 2),
            f"{median(memory, name):.0f} MB",
            f"{ratio(memory, name, other):.2f}",
        ]
        for name, other in pairs.items()
    ]
    columns = ["tasks of 100 MB", "time", "to bare pika", "spread", "memory", "to bare pika"]
    return Outcome(table(columns, rows), found)


def depth(bench: Bench, runs: int, _tasks: int) -> Outcome:
    """Measure the same with few and with a million tasks in the queue."""
    found: Results = {}
    with contextlib.ExitStack() as ends:
        queues = {number: ends.enter_context(bench.new_queue(keeps_others=True)) for number in DEPTHS}
        for number, queue in queues.items():
            bench.at(queue).seconds(bench.command(EMITTER, "--file", bench.lines(number)))

        def seconds(number: int, *arguments: object) -> float:
            return bench.at(queues[number]).seconds(bench.command(*map(str, arguments)))

        work = (WORKER, "--seconds-per-dot", 0, "--max-tasks", TASKS_AT_DEPTH)
        kinds: dict[str, tuple[object, ...]] = {
            f"{TASKS_AT_DEPTH:,} empty tasks, with the worker's start": work,
            "one task, with the worker's start": (WORKER, "--seconds-per-dot", 0, "--burst", "--max-tasks", 1),
            "one task, with the emitter's start": (EMITTER, "--no-admin", "one", "task"),
        }
        contenders = {
            f"{kind}, {number:,}": lambda kind=kind, number=number: seconds(number, *kinds[kind])
            for kind in kinds
            for number in DEPTHS
        }
        found = in_turn(runs, contenders)
    few, many = (f"{number:,}" for number in DEPTHS)
    rows = [
        [
            kind,
            f"{median(found, f'{kind}, {few}'):.2f} s",
            f"{median(found, f'{kind}, {many}'):.2f} s",
            f"{ratio(found, f'{kind}, {many}', f'{kind}, {few}'):.2f}",
            spread(found, f"{kind}, {many}", f"{kind}, {few}", 2),
        ]
        for kind in kinds
    ]
    return Outcome(table(["tasks in the queue", few, many, "ratio", "spread"], rows), found)


def many_queues(bench: Bench, runs: int, _tasks: int) -> Outcome:
    """Measure twenty queues with a worker each beside one queue with twenty workers; tasks that are no work."""
    tasks = TASKS_EACH * MANY_QUEUES

    def rate(queues: int) -> float:
        with contextlib.ExitStack() as ends:
            names = [ends.enter_context(bench.new_queue(keeps_others=True)) for _ in range(queues)]
            for queue in names:
                bench.at(queue).seconds(bench.command(EMITTER, "--file", bench.lines(tasks // queues)))
            commands = [
                bench.command(WORKER, "--seconds-per-dot", 0, "--queue", names[number % queues])
                for number in range(MANY_QUEUES)
            ]
            ends.enter_context(bench.running(commands))

            def left() -> int:
                return sum(bench.broker.counts(queue)[0] for queue in names)

            eventually(lambda: left() < 0.9 * tasks, "they are at work", 120)
            there, began = left(), time.perf_counter()
            eventually(lambda: left() == 0, "all is done", 600)
            return there / (time.perf_counter() - began)

    one, many = "one queue", f"{MANY_QUEUES} queues"
    found = in_turn(runs, {one: lambda: rate(1), many: lambda: rate(MANY_QUEUES)})
    return Outcome(
        table([f"{MANY_QUEUES} workers on", "tasks/s", "to one queue", "spread"], rates(found, one, 2)), found
    )


def slopes(bench: Bench, runs: int, tasks: int) -> Outcome:
    """Measure RabbitMQ's processor time for a task, and the part of the two processes that can't be shared out.

    A queue has one process that leads it, and a node has one that writes the log of all its queues. Their parts are
    taken from Erlang's own unit of work, the reduction.
    """
    found: Results = {}
    server = int(eventually(lambda: bench.broker.api("GET", "nodes")[0].get("os_pid"), "RabbitMQ has its figures"))

    def measure(name: str, do: Callable[[], int]) -> None:
        before, began = reductions(bench), processor_time(server)
        done = do()
        milliseconds, after = (processor_time(server) - began) / done * 1000, reductions(bench)
        every, leads, logs = (now - then for now, then in zip(after, before))
        found.setdefault(f"{name}: RabbitMQ", []).append(milliseconds)
        found.setdefault(f"{name}: the queue's process", []).append(milliseconds * leads / every)
        found.setdefault(f"{name}: the log's process", []).append(milliseconds * logs / every)

    def sent_and_taken() -> float:
        began = time.perf_counter()
        with bench.new_queue() as queue:

            def send() -> int:
                bench.seconds(bench.command(EMITTER, "--file", bench.lines(tasks)))
                return tasks

            def take() -> int:
                there = bench.broker.counts(queue)[0]
                eventually(lambda: bench.broker.counts(queue)[0] == 0, "all is done", 600)
                return there

            measure("in", send)
            with bench.running([bench.command(WORKER, "--seconds-per-dot", 0) for _ in range(MANY_QUEUES)]):
                bench.wait_for_workers(MANY_QUEUES)
                measure("out", take)
        return time.perf_counter() - began

    in_turn(runs, {"seconds for both": sent_and_taken})
    rows = [[name, f"{median(found, name):.4f} ms", f"{1000 / median(found, name):,.0f}/s"] for name in found]
    columns = [f"one queue, {MANY_QUEUES} workers", "processor time for a task", "one processor would do"]
    return Outcome(table(columns, rows), found)


def reductions(bench: Bench) -> list[int]:
    """Return how much work RabbitMQ's processes have done so far: all, the one that leads the queue, and the log's."""
    of = "Of = fun(P) -> {reductions, R} = process_info(whereis(P), reductions), R end"
    log = "{ok, Log} = ra_system:lookup_name(quorum_queues, wal)"
    every = "{All, _} = erlang:statistics(exact_reductions)"
    said = bench.broker.node.ctl("eval", f"{of}, {log}, {every}, [All, Of('%2F_{bench.queue}'), Of(Log)].")
    return list(map(int, re.findall(r"\d+", said)))


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process and its children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(map(processor_time, map(int, children)))


# ---- The time until all is done


def crowd(bench: Bench, runs: int, _tasks: int) -> Outcome:
    """Measure two hundred workers on one queue, with tasks of a second, against the best possible."""
    found = in_turn(
        runs,
        {
            f"{CROWD} workers": lambda: makespan(bench, ours(bench, CROWD), CROWD, TASKS_PER_WORKER * CROWD, LONG_TASK)[
                0
            ]
        },
    )
    best = TASKS_PER_WORKER * LONG_TASK
    rows = [
        [name, f"{median(found, name):.2f} s", f"{median(found, name) / best:.3f}", f"{max(found[name]) / best:.3f}"]
        for name in found
    ]
    columns = [f"{CROWD * TASKS_PER_WORKER:,} tasks of {LONG_TASK:.0f} s", "time", "to the best possible", "at worst"]
    return Outcome(table(columns, rows), found)


def makespans(bench: Bench, runs: int, _tasks: int) -> Outcome:
    """Measure how long 1,000 tasks of 5 ms take from sending to the last one's end, and what the workers need."""
    memory: Results = {}
    name_of_ours = "listening_worker.py's listen()"
    fails = "the same, one task in ten fails once"

    def measure(name: str, crowd: int) -> float:
        environment = {"BENCH_FAILS": "1"} if name == fails else {}
        start = {name_of_ours: ours, fails: ours, "aio-pika": aio_pika, "Celery, prefork": celery, "dramatiq": dramatiq}
        if name == "RQ, on Redis":
            with redis_server(bench) as url:
                seconds, megabytes = makespan_of_rq(bench, url, crowd)
        else:
            seconds, megabytes = makespan(
                bench, start[name](bench, crowd), crowd, MAKESPAN_TASKS, MAKESPAN_SECONDS, name, environment
            )
        memory.setdefault(f"{name}, {crowd}", []).append(megabytes)
        return seconds

    names = [name_of_ours, fails, "aio-pika", "Celery, prefork", "dramatiq", "RQ, on Redis"]
    found = in_turn(
        runs,
        {
            f"{name}, {crowd}": lambda name=name, crowd=crowd: measure(name, crowd)
            for crowd in MAKESPAN_CROWDS
            for name in names
        },
    )
    rows = []
    for crowd in MAKESPAN_CROWDS:
        best = MAKESPAN_TASKS * MAKESPAN_SECONDS / crowd
        for name in names:
            key, to = f"{name}, {crowd}", f"{name_of_ours}, {crowd}"
            rows.append(
                [
                    str(crowd),
                    name,
                    f"{median(found, key):.2f} s",
                    f"{median(found, key) / best:.2f}",
                    f"{ratio(found, key, to):.2f}",
                    spread(found, key, to, 2),
                    f"{median(memory, key):.0f} MB",
                ]
            )
    columns = ["workers", "1,000 tasks of 5 ms", "time", "to the best possible", "to ours", "spread", "memory of all"]
    return Outcome(table(columns, rows), found)


def ours(bench: Bench, crowd: int) -> Callable[[str], list[list[str]]]:
    """Return the commands of workers for a queue; so do the others."""
    return lambda queue: [bench.command("work_ours.py", bench.broker.url, queue) for _ in range(crowd)]


def aio_pika(bench: Bench, crowd: int) -> Callable[[str], list[list[str]]]:
    return lambda queue: [bench.command("work_aio_pika.py", bench.broker.url, queue) for _ in range(crowd)]


def celery(_bench: Bench, crowd: int) -> Callable[[str], list[list[str]]]:
    return lambda queue: [celery_worker("prefork", crowd, queue)]


def dramatiq(_bench: Bench, crowd: int) -> Callable[[str], list[list[str]]]:
    return lambda _: [dramatiq_worker(crowd)]


def makespan(
    bench: Bench,
    commands: Callable[[str], list[list[str]]],
    crowd: int,
    number: int,
    seconds: float,
    name: str = "",
    environment: dict[str, str] | None = None,
) -> tuple[float, float]:
    """Return the seconds from sending so many tasks to waiting workers until all are done, and the workers' memory."""
    senders = {"Celery, prefork": "publish_celery.py", "dramatiq": "dramatiq_app.py"}
    with bench.new_queue(is_declared=name not in senders) as queue, marks(bench, seconds, environment) as file:
        one = bench.lines(1)
        sender = senders.get(name)
        message: Message = bench.message_of(
            bench.command(sender, bench.broker.url, queue, one) if sender else bench.command(EMITTER, "--file", one)
        )
        with bench.running(commands(queue)) as pids:
            bench.wait_for_workers(1 if name.startswith("Celery") else crowd)  # Celery consumes for all its processes
            began = time.perf_counter()
            with bench.sent(message, number, queue):
                wait_for_marks(file, number)
            return time.perf_counter() - began, sum(map(shared_memory, pids))


@contextlib.contextmanager
def marks(bench: Bench, seconds: float, environment: dict[str, str] | None) -> Iterator[Path]:
    """Give the file that gets a mark for each task that is done, and tell the peers of it."""
    file, before = bench.folder / "marks", bench.environment
    file.write_bytes(b"")
    bench.environment = {**before, "BENCH_MARKS": str(file), "BENCH_SECONDS": str(seconds), **(environment or {})}
    try:
        yield file
    finally:
        bench.environment = before


def wait_for_marks(file: Path, number: int) -> None:
    """Wait until so many tasks are done. One that was done twice, after a lost connection, counts twice."""
    try:
        eventually(lambda: file.stat().st_size >= number, "all tasks are done", 120)
    except AssertionError:
        raise AssertionError(f"{file.stat().st_size:,} of {number:,} tasks are done after two minutes") from None


@contextlib.contextmanager
def redis_server(bench: Bench) -> Iterator[str]:
    """Run a Redis that writes its tasks to disk once a second; give its address."""
    import redis

    port = rabbitmq.free_port()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        command = ["redis-server", "--port", str(port), "--dir", folder, "--save", "", "--appendonly", "yes"]
        server = subprocess.Popen([*command, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL)
        url = f"redis://127.0.0.1:{port}"
        try:

            def answers() -> bool:
                with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(url) as client:
                    return bool(client.ping())
                return False

            eventually(answers, "Redis answers")
            yield url
        finally:
            server.terminate()
            server.wait()


def makespan_of_rq(bench: Bench, url: str, crowd: int) -> tuple[float, float]:
    """As makespan(): RQ's workers fork a process for each task. Follows https://python-rq.org/docs/workers/.

    Not guaranteed: Redis writes once a second, so a crash may lose what is younger.
    """
    import redis
    from rq import Queue, Worker

    with marks(bench, MAKESPAN_SECONDS, None) as file, redis.Redis.from_url(url) as client:
        tasks = [
            Queue.prepare_data("marks.work", (f"task {number}",), result_ttl=0) for number in range(MAKESPAN_TASKS)
        ]
        worker = [str(PROGRAMS / "rq"), "worker", "--url", url, "--path", str(PEERS), "--quiet", "bench"]
        with bench.running([worker] * crowd) as pids:
            eventually(lambda: Worker.count(connection=client) == crowd, f"{crowd} workers", 120)
            began = time.perf_counter()
            Queue("bench", connection=client).enqueue_many(tasks)
            wait_for_marks(file, MAKESPAN_TASKS)
            return time.perf_counter() - began, sum(map(shared_memory, pids))


def shared_memory(pid: int) -> float:
    """Return the memory of a process and its children in MB; what several share is divided among them."""
    try:
        own = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended, as RQ's processes for one task do
        return 0.0
    return int(own[1] if own else 0) / 1000 + sum(shared_memory(int(child)) for child in children)


MEASUREMENTS: dict[str, Callable[[Bench, int, int], Outcome]] = {
    each.__name__: each for each in (long_file, dead_letters, large, depth, many_queues, slopes, crowd, makespans)
}
