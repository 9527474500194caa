"""The log: every event with exactly its fields, and the line where each task begins."""

from __future__ import annotations

from typing import Any

from harness import PROJECT, Scripts

# Each event's fields and their types, all of them: others read these records.
EVERY = {"time": str, "event": str, "name": str, "message_id": str, "task": str}
EMITTER = {**EVERY, "line": int, "after": int, "next_line": int}
FIELDS = {
    "confirmed": EMITTER,
    "refused": {**EMITTER, "error": str},
    "received": {**EVERY, "redelivered": bool, "delivery_count": int},
    "done": {**EVERY, "seconds": float},
    "failed": {**EVERY, "seconds": float, "error": str},
    "requeued": {**EVERY, "seconds": float},
    "ack-lost": {**EVERY, "seconds": float},
}


def fields_of(record: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in record.items()}


def test_the_events_of_an_emitter_have_exactly_their_fields(scripts: Scripts) -> None:
    scripts.emit("--log-file", scripts.log, stdin=b"one\n" + b"x" * 17_000_000, status=1)
    assert [(record["event"], record["line"]) for record in scripts.events()] == [("confirmed", 1), ("refused", 2)]
    for record in scripts.events():
        assert fields_of(record) == FIELDS[record["event"]]


def test_a_task_of_words_has_the_same_fields_and_no_line(scripts: Scripts) -> None:
    scripts.emit("--log-file", scripts.log, "one")
    (record,) = scripts.events()
    assert fields_of(record) == {**EVERY, **dict.fromkeys(("line", "after", "next_line"), type(None))}


ONE_OF_EACH = """
import os, signal
from listening_worker import listen
from relay import Relay

relay = Relay(int(os.environ["BEHIND_RELAY"]))

def perform(task):
    if task.text == "bad" and not task.redelivered:
        raise ValueError("no good")
    if task.text == "cut" and not task.redelivered:
        relay.cut()
    if task.text == "stop":
        os.kill(os.getpid(), signal.SIGINT)

try:
    listen(perform, url=relay.url, log_file="events.jsonl", name="anna")
except KeyboardInterrupt:
    pass
"""


def test_the_events_of_a_worker_have_exactly_their_fields(scripts: Scripts) -> None:
    scripts.emit(stdin=b"good\nbad\ncut\nstop\n")
    path = f"{PROJECT}:{PROJECT / 'tests'}"
    scripts.program(ONE_OF_EACH, PYTHONPATH=path, BEHIND_RELAY=str(scripts.broker.node.amqp_port))
    ends = [(record["event"], record["task"]) for record in scripts.events() if record["event"] != "received"]
    assert sorted(ends) == [
        ("ack-lost", "cut"),
        ("done", "bad"),
        ("done", "cut"),
        ("done", "good"),
        ("failed", "bad"),
        ("requeued", "stop"),
    ]
    for record in scripts.events():
        assert fields_of(record) == FIELDS[record["event"]]
        assert record["name"] == "anna"
    assert scripts.events("failed")[0]["error"] == "ValueError: no good (work.py, line 10)"


def test_a_task_is_logged_as_received_before_the_work_begins(scripts: Scripts) -> None:
    """A worker that is killed in the middle of a task leaves its name."""
    scripts.emit("task")
    scripts.work("--log-file", scripts.log, "--run", f"cp {scripts.log} then.jsonl")
    scripts.log = scripts.folder / "then.jsonl"
    assert [(record["event"], record["task"]) for record in scripts.events()] == [("received", "task")]


# ---- Lines


def lines_of_tasks(scripts: Scripts, name: str, content: bytes) -> list[tuple[str, int]]:
    """Emit a file and return its tasks as the log has them, each with the line where it begins."""
    (scripts.folder / name).write_bytes(content)
    scripts.emit("--file", name, "--log-file", scripts.log)
    return [(record["task"], record["line"]) for record in scripts.events("confirmed")]


def test_lines_are_counted_behind_cells_of_several_lines(scripts: Scripts) -> None:
    content = b'one,.\n"two\n\nlines",.\n\nthree,.\r\n"four\r\n",.\r\n,\nfive,.\n'
    assert lines_of_tasks(scripts, "tasks.csv", content) == [
        ("one .", 1),
        ("two\n\nlines .", 2),
        ("three .", 6),
        ("four\r\n .", 7),
        ("five .", 10),
    ]


def test_a_cell_may_be_larger_than_the_csv_module_takes_by_itself(scripts: Scripts) -> None:
    large = "x" * 200_000  # its own limit is 128 KiB
    assert lines_of_tasks(scripts, "tasks.csv", f'"{large}",.\nsmall,.\n'.encode()) == [
        (f"{large} .", 1),
        ("small .", 2),
    ]


def test_a_byte_order_mark_is_dropped_at_the_start_of_any_line(scripts: Scripts) -> None:
    """`cat a b` puts them there."""
    content = "one\n\ufefftwo\nth\ufeffree\n".encode()
    assert lines_of_tasks(scripts, "tasks.txt", content) == [("one", 1), ("two", 2), ("th\ufeffree", 3)]
