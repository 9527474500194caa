"""What surrounds the scripts fails: terminal, disk, program, network; and what other clients send is odd."""

from __future__ import annotations

import resource
import shlex
import signal
import textwrap
import threading
import time
import unicodedata
from collections.abc import Callable
from datetime import datetime

import pika
from checker import Account
from harness import PROJECT, eventually, limit_files
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from odd_headers import FIELDS, IN_MILLISECONDS, NESTED, channel_to, field, send_with_table
from stage import HEARTBEAT, RECOVERY, SOON, Stage, at_work, scenario

ATTEMPTS = 16  # connections that a script makes at most while each is cut at once
LINES = 12  # that it says about it

TABLE_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.binary()
    | st.decimals(-1000, 1000, places=2)
    | st.datetimes(datetime(1970, 1, 2), datetime(2900, 1, 1)).map(lambda time: time.replace(microsecond=0)),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=20), values, max_size=3),
    max_leaves=5,
)
OWN_HEADERS = st.sampled_from(["x-delivery-count", "x-death", "x-first-death-reason", "x-opt-deaths"])
TEXTS = ("content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "type", "app_id")
PROPERTIES = st.builds(
    pika.BasicProperties,
    headers=st.none() | st.dictionaries(st.text(max_size=20) | OWN_HEADERS, TABLE_VALUES, max_size=4),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 255),
    timestamp=st.none() | st.integers(0, 2**63 - 1),
    **dict.fromkeys(TEXTS, st.none() | st.text(max_size=60)),
)
BODIES = st.binary(max_size=2000) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))


@scenario
def any_bytes(stage: Stage) -> None:
    """Messages of other clients: any body, any properties, any headers."""
    stage.book_worker("--burst").ends()
    sent: list[bytes] = []
    number = stage.load(1000, 100)
    with channel_to(stage) as channel:

        @seed(stage.random.getrandbits(32))
        @settings(max_examples=number, database=None, deadline=None, phases=[Phase.generate])
        @given(BODIES, PROPERTIES)
        def send(body: bytes, properties: pika.BasicProperties) -> None:
            channel.basic_publish("", stage.queue, body, properties, mandatory=True)
            sent.append(body)

        send()
    stage.faults = len(sent)
    stage.tasks = [body.hex() for body in sent]
    worker = stage.book_worker("--burst").ends(within=2 * RECOVERY)
    done = [entry["body"] for entry in stage.book()]
    assert sorted(done) == sorted(stage.tasks)
    assert worker.err == ""
    shown = {*worker.out_file.read_bytes().decode()}
    assert [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")] == ["\n"]
    assert shown.isdisjoint("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"), "turns text"
    assert stage.broker.counts(stage.queue)[0] == stage.broker.counts(stage.dead_letters)[0] == 0
    stage.account = Account(tasks=len(sent))


@scenario
def output_lost(stage: Stage) -> None:
    """Nobody reads what is printed any more, the disk of the log is full, or its directory is not there."""
    number = stage.load(2000, 100)

    def through_head(script: str, *arguments: object) -> None:
        command = f"set -o pipefail; {shlex.join(stage.command(script, *arguments))} | head -1"
        run = stage.start_command(["bash", "-c", command]).ends(within=RECOVERY)
        assert (len(run.lines), run.err) == (1, "")

    log = ("--log-file", stage.log)
    through_head("emitter_of_tasks.py", "--verbose", "--file", stage.tasks_file(number), *log)
    through_head("tests/faults/worker_with_book.py", stage.book_file, "--burst", *log)
    stage.settle()
    assert stage.done() == len(stage.tasks)

    full = " [!] The log file can't be written: No space left on device. The tasks go on.\n"
    assert stage.emit("--file", stage.tasks_file(number), "--log-file", "/dev/full").err == full
    assert stage.book_worker("--log-file", "/dev/full", "--burst").ends().err == full
    assert stage.done() == len(stage.tasks)
    with open("/dev/full", "wb") as nowhere:
        stage.emit("--verbose", "--file", stage.tasks_file(number), *log, stdout=nowhere, stderr=nowhere)
        stage.book_worker("--burst", stdout=nowhere, stderr=nowhere).ends()
    stage.settle(all_are_sent=False)
    assert stage.done() == len(stage.tasks)

    waiting = stage.new_tasks(1)
    stage.emit(*waiting, *log)
    for script in ("emitter_of_tasks.py", "listening_worker.py"):
        run = stage.start(script, "--log-file", stage.folder / "none" / "log").ends(2)
        assert "can't be opened: No such file or directory." in run.err
    stage.faults += 4
    stage.drain(all_are_sent=False)
    assert stage.account.twice == 0


@scenario
def flapping(stage: Stage) -> None:
    """Every connection is cut a moment after it was begun, for a while."""
    relay = stage.relay()
    with at_work(stage, 2, seconds=0.002, url=relay.url) as crew:
        with stage.fed(stage.load(100, 150), "--url", relay.url) as emitter:
            until = time.monotonic() + stage.load(40, 4)
            relay.cut()
            relay.delay = 0.05  # so that no task can be settled in the time that a connection has
            opened = 0
            while time.monotonic() < until:
                eventually(lambda: relay.sockets or time.monotonic() > until, "somebody comes back", RECOVERY)
                time.sleep(0.1)
                opened += len(relay.sockets) // 2  # one to each side
                relay.cut()
                stage.faults += 1
            relay.delay = 0.0
            confirmed, done = stage.confirmed(), stage.done()
            eventually(lambda: stage.confirmed() > confirmed, "it sends again", SOON)
            eventually(lambda: stage.done() > done, "they work again", SOON)
        emitter.ends(within=RECOVERY)
        stage.wait_for_done()
    for run in (emitter, *crew.workers):
        assert run.err.count("\n") <= LINES, run.err
    assert opened <= ATTEMPTS * 3, opened
    stage.drain()


@scenario
def paused_terminal(stage: Stage) -> None:
    """Nobody takes what the scripts print for longer than several heartbeats, as at a terminal after Ctrl+S."""
    stage.book_worker("--burst").ends()
    url = f"{stage.broker.url}?heartbeat={HEARTBEAT}"
    number = stage.load(3000, 1200)
    log = ("--log-file", stage.log, "--url", url)
    emitter = stage.at_terminal("emitter_of_tasks.py", "--verbose", *log, "--file", stage.tasks_file(number))
    worker = stage.at_terminal(
        "tests/faults/worker_with_book.py", stage.book_file, *log, PYTHONPATH=str(PROJECT), SECONDS="0"
    )
    for what in (stage.confirmed, stage.done):
        eventually(what, "they have begun", RECOVERY)
        eventually(lambda: rests(what), "nothing more goes into the terminal", RECOVERY)  # noqa: B023
        assert what() < number
    time.sleep(stage.load(20, 3) * HEARTBEAT)
    stage.faults += 2
    assert stage.broker.counts(stage.queue)[1] == 1, "the worker's connection lives"
    reading = threading.Thread(target=lambda: worker.expect(["\r\n *\\[\\*\\] Stopped", "never"], timeout=None))
    reading.start()
    emitter.expect("Sent [0-9,]+ tasks", timeout=RECOVERY)
    stage.wait_for_done()
    worker.kill(signal.SIGTERM)
    reading.join(RECOVERY)
    for terminal in (emitter, worker):
        terminal.wait()
        assert terminal.exitstatus == 0
    stage.settle()
    assert stage.account.twice == 0


def rests(count: Callable[[], int]) -> bool:
    """Tell whether nothing is counted for a second."""
    before = count()
    time.sleep(1)
    return count() == before


@scenario
def full_disk(stage: Stage) -> None:
    """The disk with the worker's output and log is full again and again, for a moment."""
    stage.send(stage.load(3000, 300))
    log = stage.folder / "disk.jsonl"
    worker = stage.start("listening_worker.py", "--seconds-per-dot", 0, "--log-file", log)
    worker.shows("Waiting")
    for _ in range(stage.load(20, 3)):
        limit_files(worker.process.pid, 0)
        stage.pause(0.2)
        limit_files(worker.process.pid, resource.RLIM_INFINITY)
        stage.faults += 1
        size = log.stat().st_size
        left = stage.broker.counts(stage.queue)[0]
        eventually(lambda: log.stat().st_size > size or not left, "it is logged again", SOON)  # noqa: B023
    eventually(lambda: not stage.broker.counts(stage.queue)[0], "all are done", RECOVERY)
    stage.emit("the last")
    worker.shows("Received the last")
    worker.shows("Done", times=1)
    eventually(lambda: log.read_text().endswith("\n"), "its line is whole")
    worker.send(signal.SIGTERM)
    worker.ends()
    # This worker has no book: that every task left the queue by an acknowledgement is what there is to see.
    assert worker.err.count("can't be written") <= 2, "and standard error had no room either"
    assert worker.out.rstrip().endswith("Stopped.")
    assert stage.broker.counts(stage.queue) == (0, 0)
    stage.settle(all_are_sent=False, thrown_away=stage.tasks)


@scenario
def odd_headers(stage: Stage) -> None:
    """Headers that pika can't read: times in milliseconds, thousands of nested tables, every other type among them."""
    stage.book_worker("--burst").ends()
    odd = [IN_MILLISECONDS, NESTED, *FIELDS]
    texts = stage.new_tasks(stage.load(1000, 60))
    for number, text in enumerate(texts):
        send_with_table(stage, stage.queue, text.encode(), field(b"header", odd[number % len(odd)]))
    stage.faults = len(texts)
    worker = stage.book_worker("--burst").ends(within=RECOVERY)
    assert worker.err == ""
    stage.settle(all_are_sent=False)
    assert stage.done() == len(texts)
    assert stage.account.twice == 0


@scenario
def program_lost(stage: Stage) -> None:
    """The program of --run is gone for a while, again and again; a supervisor starts the worker anew each time."""
    program = stage.folder / "program"
    text = f"""\
        #!/bin/sh
        sleep 0.01
        printf '{{"task": "%s", "message_id": "", "body": ""}}\\n' "$1" >> {stage.book_file}
    """

    def install() -> None:
        (stage.folder / "new").write_text(textwrap.dedent(text))
        (stage.folder / "new").chmod(0o755)
        (stage.folder / "new").rename(program)

    install()
    stage.send(stage.load(500, 80))
    worker = stage.start("listening_worker.py", "--run", f"{program} {{}}")
    worker.shows("Waiting")
    for _ in range(stage.load(20, 3)):
        stage.pause(0.3)
        program.unlink()
        stage.send(1)  # should it have done all others
        worker.ends(1, within=SOON)
        assert f"{program.name} can't be started: No such file or directory" in worker.err
        stage.faults += 1
        install()
        worker = stage.start("listening_worker.py", "--run", f"{program} {{}}")
        worker.shows("Waiting")
    stage.wait_for_done()
    worker.send(signal.SIGTERM)
    worker.ends()
    stage.settle()
    assert stage.account.twice == 0
    assert not stage.account.dead
