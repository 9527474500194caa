"""What an emitter shows: progress, a total, and each task that is not sent."""

import io
import itertools
import sys
import time
from pathlib import Path

import pytest
from harmful import HARM, SHOWN
from harness import Scripts

from task_queue.emitter.source import Source
from task_queue.emitter.task_report import Report
from task_queue.event_log import EventLog


def test_progress_is_rate_part_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seldom, and of a file that grows while it is read never more than the whole."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys, "stdout", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    file = tmp_path / f"many {HARM}.txt"
    file.write_text("task\n" * 4000)
    source = Source(str(file), None)
    report, tasks = Report(EventLog(None, "emitter"), source, False), source.tasks()
    shown = []
    for seconds, more in ((10, 1000), (10.1, 1000), (40, 1000), (50, 2000)):
        clock[0] = 1000 + seconds
        if seconds == 50:
            with file.open("a") as growing:
                growing.write("task\n" * 1000)
        report.settled([(task, None) for task in itertools.islice(tasks, more)])
        shown.append(terminal.getvalue())
        terminal.seek(terminal.truncate(0))
    report.total()
    name = f"{tmp_path}/many {SHOWN}.txt"
    assert shown == [
        f" 1,000 sent, 100/s, 25% of {name} read, 30 s left\x1b[K\r",
        "",
        f" 3,000 sent, 75/s, 75% of {name} read, 13 s left\x1b[K\r",
        f" 5,000 sent, 100/s, 100% of {name} read, 0 s left\x1b[K\r",
    ]
    assert terminal.getvalue() == " [x] Sent 5,000 tasks in 50.0 s (100/s).\x1b[K\n"


def test_a_task_that_is_too_large_is_named_and_the_others_are_sent(scripts: Scripts) -> None:
    largest = 16 * 1024 * 1024
    lines = [b"one", b"x" * 17_000_000, b"y" * largest, b"four", b"z" * (largest + 1)]
    emitter = scripts.emit(stdin=b"\n".join(lines), status=1)
    assert "Line 2 of standard input is not sent: it has 17,000,000 bytes, and RabbitMQ takes 16,777,216" in emitter.err
    assert "Line 5 of standard input is not sent" in emitter.err
    assert "Sent 3 tasks" in emitter.out
    assert "Go on with" not in emitter.err  # there is no rest
    sent = scripts.broker.counts(scripts.queue)[0]  # more than three: some were sent again on another channel
    assert {*scripts.broker.take(scripts.queue, sent)} == {"one", "y" * largest, "four"}
