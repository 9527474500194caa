"""What is said on the terminal: foreign text, with nothing in it that could harm, and progress."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from urllib.parse import quote

import emitter_of_tasks
import listening_worker
import pexpect
import pytest
from harness import Broker, Run, Scripts
from pika import spec
from relay import Relay
from scripted_server import Server

from task_queue import QueueError, SettingsError
from task_queue.publisher import Publisher
from task_queue.settings import settings_for

# What moves the cursor, erases, changes the terminal's settings or begins a line (Cc, Zl and Zp of Unicode), and what
# shows text in another order than it is in. Other characters that can't be seen may be shown as they are.
BIDI = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
HARMFUL = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *BIDI]))
# Some of each kind: short enough to be shown whole everywhere, and nothing that can't be in a line or a file's name.
HARM = "\x1bc\a\b\x7f\x85\x9b1m\u2028\u2029" + "".join(map(chr, BIDI))
SHOWN = HARM.encode("unicode_escape").decode()
# A family joined by U+200D, a space that does not break, a soft hyphen, a private character: odd, and no harm.
UNUSUAL = "👨\u200d👩\u200d👧 \xa0 \xad \ue000 \ufeff"


def harmless(run: Run) -> str:
    """Return all that a script has said, if nothing in it can harm a terminal."""
    said = (run.out_file.read_bytes() + run.err_file.read_bytes()).decode()
    assert not set(said) & set(HARMFUL) - {"\n"}, ascii(said)
    return said


# ---- Foreign text: what a worker says


def test_every_harmful_character_is_shown_as_an_escape_and_no_other(scripts: Scripts) -> None:
    scripts.emit(f"Größe 日本 e\u0301 👍 {UNUSUAL}")
    scripts.broker.publish(scripts.queue, HARMFUL.encode() + b"\xed\xa0\x80")  # the last: half a surrogate pair
    said = harmless(scripts.work()).splitlines()
    assert f" [x] Received Größe 日本 e\u0301 👍 {UNUSUAL}" in said
    assert f" [x] Received {HARMFUL.encode('unicode_escape').decode()}\\xed\\xa0\\x80" in said


def test_a_task_and_its_command_are_shown_harmless_when_they_fail_too_often(scripts: Scripts) -> None:
    command = scripts.folder / HARM
    command.write_text("#!/bin/sh\ntest -e flag && exit 3; touch flag; kill -9 $$\n")
    command.chmod(0o755)
    scripts.emit(HARM)
    said = harmless(scripts.work("--run", shlex.quote(f"./{HARM}")))
    failed = rf" \[!\] Failed.*: \./{re.escape(SHOWN)} "
    assert re.search(f"{failed}was killed by SIGKILL[;\n]", said)
    assert re.search(f"{failed}ended with exit status 3[;\n]", said)
    assert f"dead letter now: {SHOWN}\n" in said


FAILS_AND_STOPS = f"""
import os, signal
from listening_worker import listen

def perform(task):
    if not task.redelivered:
        raise ValueError({HARM!a})
    os.kill(os.getpid(), signal.SIGINT)

try:
    listen(perform)
except KeyboardInterrupt:
    pass
"""


def test_a_failure_in_python_and_a_task_that_goes_back_are_shown_harmless(scripts: Scripts) -> None:
    scripts.emit(HARM)
    said = harmless(scripts.program(FAILS_AND_STOPS))
    assert re.search(rf" \[!\] Failed.*: ValueError: {re.escape(SHOWN)} \(work.py, line 7\)", said)
    assert f"goes back to the queue: {SHOWN}\n" in said


# ---- Foreign text: what an emitter says


def test_tasks_and_names_of_files_are_shown_harmless(scripts: Scripts) -> None:
    folder = scripts.folder
    (folder / f"{HARM}.txt").write_text(f"{HARM} good\n{HARM} large{'x' * 17_000_000}\n")
    with (folder / f"{HARM}.txt").open("ab") as file:
        file.write(b"\xff\n")
    (folder / f"{HARM}.csv").write_text('"')
    (folder / HARM).symlink_to("/proc/self/mem")  # which can be opened, and its first byte can't be read
    text, table, unreadable = (
        scripts.emitter("--verbose", "--file", name) for name in (f"{HARM}.txt", f"{HARM}.csv", HARM)
    )

    said = harmless(text.ends(1))
    assert f" [x] Sent {SHOWN} good\n" in said
    assert re.search(rf"Line 2 of {re.escape(SHOWN)}.txt is not sent: .*: {re.escape(SHOWN)} large", said)
    assert f"Line 3 of {SHOWN}.txt is not UTF-8." in said
    assert f"Go on from line 3 of {SHOWN}.txt" in said
    assert f"Line 1 of {SHOWN}.csv is not CSV" in harmless(table.ends(1))
    assert f"Line 1 of {SHOWN} can't be read: Input/output error." in harmless(unreadable.ends(1))


def test_a_task_that_is_not_confirmed_is_named_when_the_emitter_ends(scripts: Scripts) -> None:
    scripts.broker.set_policy(scripts.queue, **{"max-length": 0})
    try:
        scripts.emit("the one that an empty queue takes")
        emitter = scripts.emitter(f"task {HARM}")
        emitter.shows("The queue takes no tasks for now")
        emitter.send(signal.SIGINT)
        said = harmless(emitter.ends(130)).splitlines()
    finally:
        scripts.broker.api("DELETE", f"policies/%2F/{scripts.queue}")
    assert f" [!] Not confirmed: task {SHOWN}" in said
    assert "Sent" not in emitter.out


# ---- Foreign text: settings, and what RabbitMQ says itself


def test_settings_that_make_no_sense_are_shown_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for script, *arguments in (
        (emitter_of_tasks, "--file", HARM),
        (emitter_of_tasks, "--log-file", f"no/{HARM}", "task"),
        (listening_worker, "--run", f"'no {HARM}'"),
        (listening_worker, "--run", f"'{HARM}"),
        (listening_worker, "--max-tasks", HARM),
        (listening_worker, "--seconds-per-dot", HARM),
        (listening_worker, "--queue", HARM),
    ):
        monkeypatch.setattr(sys, "argv", ["script", *arguments])
        with pytest.raises((SettingsError, SystemExit)) as ended:
            script.main()
        said = capsys.readouterr().err + str(ended.value)
        assert not set(said) & set(HARMFUL) - {"\n"}, ascii(said)
        assert SHOWN in said or "--queue" in arguments


def test_the_parts_of_an_address_are_shown_harmless(broker: Broker) -> None:
    port, password = broker.node.amqp_port, "secret"
    for url, words in (
        (f"amqp://{quote(HARM)}:{password}@localhost:{port}", f"refused user {SHOWN} with this password"),
        (f"amqp://localhost:{port}/{quote(HARM)}", f"has no virtual host {SHOWN}.\n"),
        ("amqp://no\x1bc.invalid", r"No machine named no\x1bc.invalid is known"),
        (f"amqp://{HARM}", f"No machine named {SHOWN} is known"),
    ):
        publisher = Publisher(settings_for(url, "tasks", "emitter", 0.0), lambda _: None)
        with contextlib.closing(publisher.connection), pytest.raises(QueueError) as refused:
            publisher.connection.open()
        assert not set(str(refused.value)) & set(HARMFUL) - {"\n"}, ascii(str(refused.value))
        assert words in str(refused.value)


def test_the_address_of_a_panel_is_shown_harmless(at_server: Scripts, server: Server) -> None:
    run = at_server.emit("--admin", "--admin-url", f"http://{HARM}", "task", env={"BROWSER": "true"})
    assert f"admin panel: http://{SHOWN}" in harmless(run)


def test_what_rabbitmq_says_of_a_queue_with_odd_settings_is_shown_harmless(scripts: Scripts) -> None:
    scripts.work()
    declared = scripts.broker.api("GET", f"queues/%2F/{scripts.queue}")["arguments"]
    scripts.broker.drop(scripts.queue)
    scripts.broker.declare(scripts.queue, **{**declared, "x-dead-letter-routing-key": HARM})
    said = harmless(scripts.start("listening_worker.py").ends(1))
    assert f"Queue {scripts.queue} has other settings" in said
    assert f"'{SHOWN}'" in said


def test_why_rabbitmq_closes_a_connection_is_shown_harmless(at_server: Scripts, server: Server) -> None:
    worker = at_server.start("listening_worker.py")
    server.gets("Basic.Consume")
    server.session(0).send(spec.Connection.Close(320, f"CONNECTION_FORCED - because of {HARM}", 0, 0))
    worker.shows("Connected again.")
    assert f"CONNECTION_FORCED - because of {SHOWN}" in harmless(worker)


@pytest.fixture
def relay_to_own(own_broker: Broker) -> Iterator[Relay]:
    with contextlib.closing(Relay(own_broker.node.amqp_port)) as it:
        yield it


def test_why_rabbitmq_takes_no_tasks_is_said_and_shown_harmless(own_scripts: Scripts, relay_to_own: Relay) -> None:
    scripts, relay = own_scripts, relay_to_own
    odd = "low\x1bc\x9b1m\u202e\a"
    relay.replaced = (b"low on memory", odd.encode())
    assert len(odd.encode()) == len("low on memory")
    alarm, ctl = "{resource_limit, memory, node()}", scripts.broker.node.ctl
    ctl("eval", f"rabbit_alarm:set_alarm({{{alarm}, []}}).")
    try:
        plain, changed = scripts.emitter("one"), scripts.emitter("two", "--url", relay.url)
        for emitter in (plain, changed):
            emitter.shows(" [*] RabbitMQ takes no tasks for now: low")
            emitter.shows(". Waiting ...\n")
        assert plain.err == " [*] RabbitMQ takes no tasks for now: low on memory. Waiting ...\n"
        assert plain.out == ""
    finally:
        ctl("eval", f"rabbit_alarm:clear_alarm({alarm}).")
    assert plain.ends().err.splitlines()[1:] == [" [*] RabbitMQ takes tasks again."]
    assert plain.out == " [x] Sent one\n"
    assert odd.encode("unicode_escape").decode() in harmless(changed.ends())


# ---- Progress

TASKS = 4_000
# Time stands still, but for two jumps: with the first confirmed tasks to 10 s, and with the first third or so to 40 s.
# The log tells how far the emitter is. Each look takes a nanosecond, for no time at all has gone by on no clock.
CLOCK = """
import itertools, os, time

looks = itertools.count(1)

def now():
    size = os.path.getsize("events.jsonl") if os.path.exists("events.jsonl") else 0
    return 1000 + 10 * (size > 0) + 30 * (size > 240_000) + next(looks) / 1e9

time.monotonic = now
"""


def test_progress_is_rate_part_and_time_left(scripts: Scripts) -> None:
    (scripts.folder / "sitecustomize.py").write_text(CLOCK)
    name = f"many {HARM}.txt"
    (scripts.folder / name).write_text("task\n" * TASKS)
    terminal = scripts.at_terminal(
        "emitter_of_tasks.py",
        *("--no-admin", "--file", name, "--log-file", scripts.log),
        PYTHONPATH=str(scripts.folder),
        AMQP_URL=f"{scripts.broker.url}?heartbeat=0",  # which would go by this clock
    )
    terminal.expect(pexpect.EOF)
    said = terminal.before.replace("\r", "").replace("\x1b[K", "")
    assert not set(said) & set(HARMFUL) - {"\n"}, ascii(said)
    line = rf" ([\d,]+) sent, ([\d,]+)/s, (\d+)% of many {re.escape(SHOWN)}.txt read, (-?\d+) s left"
    shown = [[int(number.replace(",", "")) for number in found] for found in re.findall(line, said)]
    assert 2 <= len(shown) <= 3  # one line at most at a time, and that at the very first task may be left out
    for seconds, (sent, rate, percent, left) in zip((10, 40), shown[-2:]):
        assert rate == pytest.approx(sent / seconds, abs=0.51)
        # Read are those that are sent, those on their way (a window of 1000), and those that are not counted yet.
        read = percent / 100 * TASKS
        assert sent - TASKS / 200 <= read <= sent + 2000 + TASKS / 200
        least, most = (seconds * (100 / (percent + half) - 1) for half in (0.5, -0.5))
        assert least - 0.51 <= left <= most + 0.51
    assert " [x] Sent 4,000 tasks in 40.0 s (100/s).\n" in said


def test_one_task_is_told_as_one(at_server: Scripts, server: Server) -> None:
    cut_short = at_server.emit(stdin=b"one\n\xff\n", status=1)
    assert cut_short.out.startswith(" [x] Sent 1 task in ")
    assert " [!] 1 task confirmed. Go on from line 2 of standard input.\n" in cut_short.err
