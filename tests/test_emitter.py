"""What emitter_of_tasks.py promises: every way in, every exit status, nothing sent that is not confirmed."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import emitter_of_tasks
import pexpect
import pika
import pytest
from harness import DEADLINE, PROJECT, Scripts, eventually, fill, waits_in
from pika import spec
from relay import Relay
from scripted_server import Got, Server, Session

from task_queue import InputError
from task_queue.encoder import Encoder
from task_queue.event_log import EventLog
from task_queue.message import Message, new_message, properties
from task_queue.publisher import Publisher
from task_queue.report import Report
from task_queue.settings import settings_for
from task_queue.signals import Signals

PROMPT = "Enter new task: "


def test_a_task_is_a_persistent_text_message_with_an_id(scripts: Scripts) -> None:
    before = int(time.time())
    scripts.emit("Größe", "L")
    (message,) = scripts.broker.messages(scripts.queue)
    properties = message["properties"]
    assert message["body"] == "Größe L".encode()
    assert uuid.UUID(properties.pop("message_id")).version == 4
    assert before <= properties.pop("timestamp") <= time.time()
    assert properties.pop("headers", {}).keys() <= {"x-delivery-count"}  # which this look at it has put there
    assert properties == {"delivery_mode": 2, "content_type": "text/plain", "content_encoding": "utf-8"}


def test_tasks_are_persistent_and_have_ids_whichever_way_they_come_in(scripts: Scripts) -> None:
    (scripts.folder / "tasks.CSV").write_text("of a,file.\n")
    terminal = scripts.at_terminal("emitter_of_tasks.py", "--no-admin")
    scripts.emit("of words")
    scripts.emit("--file", "tasks.CSV")
    scripts.emit(stdin=b"of,a pipe\nof,a pipe\n")
    terminal.expect(PROMPT)
    terminal.sendline("typed")
    terminal.expect(r" \[x\] Sent typed\r\n")
    messages = scripts.broker.messages(scripts.queue)
    modes = {message["body"].decode(): message["properties"].get("delivery_mode") for message in messages}
    assert modes == dict.fromkeys(["of words", "of a file.", "of,a pipe", "typed"], 2)
    ids = {message["properties"]["message_id"] for message in messages}
    assert len(ids) == 5
    assert all(str(uuid.UUID(each)) == each for each in ids)


def test_both_queues_are_declared_as_promised(scripts: Scripts) -> None:
    scripts.emit("task")
    queue, dead_letters = (
        scripts.broker.api("GET", f"queues/%2F/{name}") for name in (scripts.queue, scripts.dead_letters)
    )
    assert queue["durable"]
    assert queue["arguments"] == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": scripts.dead_letters,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-consumer-timeout": 86_400_000,
        "x-delayed-retry-type": "failed",
        "x-delayed-retry-min": 1_000,
        "x-delayed-retry-max": 30_000,
    }
    assert dead_letters["durable"]
    assert dead_letters["arguments"] == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 1_000_000_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": scripts.queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_flags_count_before_the_environment(scripts: Scripts) -> None:
    other = f"{scripts.queue}-other"
    scripts.emit("task", "--queue", other, "--url", scripts.broker.url, env={"AMQP_URL": "amqp://localhost:1"})
    assert scripts.broker.bodies(other) == ["task"]
    scripts.broker.drop(other, f"{other}.dead-letters")


def test_the_next_node_is_tried_and_a_comma_in_a_query_begins_none(scripts: Scripts) -> None:
    query = "?tcp_options={'TCP_KEEPIDLE':60,'TCP_KEEPCNT':3}"
    scripts.emit("task", "--url", f"amqp://localhost:1/%2F{query},{scripts.broker.url}{query}")
    assert scripts.broker.bodies(scripts.queue) == ["task"]


# ---- Files and pipes


def test_no_input_is_no_task(scripts: Scripts) -> None:
    assert "Sent 0 tasks" in scripts.emitter("--file", "-", stdin=subprocess.DEVNULL).ends().out


@pytest.mark.parametrize("way", ["< /dev/null", "<&-"])  # as where an editor, or cron, starts a program
def test_where_there_is_no_input_it_says_what_it_misses(scripts: Scripts, way: str) -> None:
    command = " ".join(scripts.command("emitter_of_tasks.py"))
    run = scripts.start_command(["sh", "-c", f"exec {command} {way}"]).ends(2)
    assert run.out == ""
    assert run.err == (
        " [!] No task is given. Give one as words, or a file with --file, or start this in a terminal and type tasks "
        "there.\n"
    )


def test_verbose_names_each_task_of_a_file_and_a_dash_is_standard_input(scripts: Scripts) -> None:
    lines = scripts.emit("--verbose", "--file", "-", stdin=b"one\ntwo\n").lines
    assert lines[:2] == [" [x] Sent one", " [x] Sent two"]
    assert lines[2].startswith(" [x] Sent 2 tasks in ")


def test_tasks_of_a_slow_pipe_are_sent_as_they_come(scripts: Scripts) -> None:
    emitter = scripts.emitter("--verbose", stdin=subprocess.PIPE)
    assert emitter.process.stdin
    for piece, word in (("one\n", "one"), ("two\n\nth", "two"), ("ree\nfour\n\n", "four"), ("five\n  ", "five")):
        emitter.process.stdin.write(piece.encode())
        emitter.process.stdin.flush()
        emitter.shows(f" [x] Sent {word}\n", within=5)
    emitter.process.stdin.close()
    emitter.ends()
    assert scripts.broker.bodies(scripts.queue) == ["one", "two", "three", "four", "five"]


def test_many_tasks_arrive_in_their_order(scripts: Scripts) -> None:
    numbers = [str(number) for number in range(2500)]
    scripts.emit(stdin="\n".join(numbers).encode())
    assert scripts.broker.counts(scripts.queue)[0] == len(numbers)
    assert scripts.broker.take(scripts.queue, len(numbers)) == numbers


def test_a_task_that_is_too_large_is_named_and_the_others_are_sent(scripts: Scripts) -> None:
    largest = 16 * 1024 * 1024
    lines = [b"one", b"x" * 17_000_000, b"y" * largest, b"four", b"z" * (largest + 1)]
    emitter = scripts.emit("--log-file", scripts.log, stdin=b"\n".join(lines), status=1)
    assert "Line 2 of standard input is not sent: it has 17,000,000 bytes, and RabbitMQ takes 16,777,216" in emitter.err
    assert "Line 5 of standard input is not sent" in emitter.err
    assert "Sent 3 tasks" in emitter.out
    assert "Go on from" not in emitter.err  # there is no rest
    assert sorted(event["line"] for event in scripts.events("confirmed")) == [1, 3, 4]
    assert [event["line"] for event in scripts.events("refused")] == [2, 5]
    # RabbitMQ ends the channel, so that what it had not confirmed by then is sent again.
    sent = scripts.broker.counts(scripts.queue)[0]
    assert {*scripts.broker.take(scripts.queue, sent)} == {"one", "y" * largest, "four"}


def test_a_thousand_tasks_may_be_unconfirmed_and_no_more(scripts: Scripts, relay: Relay) -> None:
    emitter = scripts.emitter("--url", relay.url, "--log-file", scripts.log, stdin=subprocess.PIPE)
    pipe = emitter.process.stdin
    assert pipe is not None
    pipe.write(b"first\n")
    pipe.flush()
    eventually(lambda: scripts.events("confirmed"), "the first is confirmed")
    relay.freeze_answers()

    def sent() -> int:
        return scripts.broker.counts(scripts.queue)[0] - 1

    pipe.write(b"task\n" * 30)  # so that a hundred at a time do not make exactly a thousand
    pipe.flush()
    eventually(lambda: sent() == 30, "they are sent by themselves")
    pipe.write(b"task\n" * 2970)
    pipe.close()
    eventually(lambda: sent() > 900, "it sends what it may")
    since = time.monotonic()
    eventually(lambda: sent() > 1000 or time.monotonic() > since + 0.5, "half a second goes by, enough for all of them")
    assert 900 < sent() <= 1000
    relay.thaw()
    emitter.ends()
    assert sent() == 3000


# ---- A person at a terminal


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # as Python takes them, depending on the language
def test_what_is_no_text_is_not_sent_and_asked_for_again(scripts: Scripts, errors: str) -> None:
    encoding = f"utf-8:{errors}"
    terminal = scripts.at_terminal("emitter_of_tasks.py", "--no-admin", PYTHONIOENCODING=encoding)
    terminal.expect(PROMPT)
    os.write(terminal.child_fd, b"Gr\xf6\xdfe\n")
    terminal.expect("That is not text in this terminal's encoding")
    terminal.expect(PROMPT)
    terminal.sendline("Größe")
    terminal.expect(" \\[x\\] Sent Größe\r\n")
    assert scripts.broker.bodies(scripts.queue) == ["Größe"]


@pytest.mark.parametrize("way", ["is on its way", "can not be sent"])
def test_ctrl_c_at_the_prompt_names_the_task_that_is_not_confirmed(scripts: Scripts, relay: Relay, way: str) -> None:
    terminal = scripts.at_terminal("emitter_of_tasks.py", "--no-admin", AMQP_URL=relay.url)
    terminal.expect(PROMPT)
    if way == "is on its way":
        relay.freeze_answers()
    else:
        relay.close()
        terminal.expect("Reconnecting")
    terminal.sendline("task")
    eventually(lambda: "epoll" in waits_in(terminal.pid), "it reads no more and waits for the confirm")
    terminal.sendintr()
    terminal.expect_exact("Not confirmed: task\r\n")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130


def test_an_emitter_that_waited_at_its_prompt_sends_at_once(scripts: Scripts) -> None:
    terminal = scripts.at_terminal("emitter_of_tasks.py", "--no-admin", AMQP_URL=f"{scripts.broker.url}?heartbeat=2")
    terminal.expect(PROMPT)
    asked = time.monotonic()
    eventually(lambda: time.monotonic() > asked + 6, "three heartbeats go by")
    terminal.sendline("late")
    terminal.expect(" \\[x\\] Sent late\r\n")
    assert "lost" not in terminal.before
    terminal.expect(PROMPT)
    terminal.sendeof()
    terminal.expect(pexpect.EOF)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_admin_address_comes_from_the_url_without_its_password(scripts: Scripts, host: str) -> None:
    try:
        relay = Relay(scripts.broker.node.amqp_port, host)
    except OSError:
        pytest.skip(f"no {host} on this machine")
    with contextlib.closing(relay):
        terminal = scripts.at_terminal("emitter_of_tasks.py", "--admin", "task", BROWSER="true", AMQP_URL=relay.url)
        at = "[::1]" if host == "::1" else host
        terminal.expect_exact(
            f" [*] RabbitMQ's admin panel: http://{at}:15672/#/queues (user guest, password guest)\r\n"
        )
        terminal.expect(" \\[x\\] Sent task\r\n")
        terminal.expect(pexpect.EOF)


def test_a_panel_that_does_not_answer_is_explained(scripts: Scripts) -> None:
    run = scripts.emit("--admin", "--admin-url", "http://localhost:1/#/queues", "task", env={"BROWSER": "false"})
    assert "on RabbitMQ's machine:  rabbitmq-plugins enable rabbitmq_management" in run.err
    assert "(in Docker: take the image rabbitmq:4-management)" in run.err
    assert "open that address in yours" in run.out


def test_a_password_in_the_address_of_the_panel_is_not_shown(scripts: Scripts) -> None:
    url = scripts.broker.node.admin_url.replace("http://", "http://user:se-cret@")
    assert "se-cret" not in scripts.emit("--admin", "--admin-url", url, "task", env={"BROWSER": "true"}).out


def test_no_question_is_asked_when_nobody_is_there(scripts: Scripts) -> None:
    assert scripts.emit("task").out == " [x] Sent task\n"


def test_a_missing_pika_is_said_with_what_installs_it(tmp_path: Path) -> None:
    for name in ("emitter_of_tasks.py", "listening_worker.py"):
        shutil.copy(PROJECT / name, tmp_path)
    shutil.copytree(PROJECT / "task_queue", tmp_path / "task_queue")

    def said_by(script: str) -> str:
        command = [sys.executable, "-S", script]  # without the packages that were installed
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (1, "")
        return run.stderr

    assert said_by("emitter_of_tasks.py").splitlines() == [
        " [!] The Python package pika is missing. python3 tools/demo.py  installs it, with all that is needed, and "
        "shows a demo. By hand:",
        "python3 -m venv .venv",
        ".venv/bin/python -m pip install -r requirements.txt",
    ]
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    there = "It is in .venv, so start this with:  .venv/bin/python listening_worker.py\n"
    assert said_by("listening_worker.py").endswith(there)


# ---- Ends


def test_ctrl_c_in_the_middle_of_a_pipe_says_how_far_it_came(scripts: Scripts) -> None:
    emitter = scripts.emitter("--verbose", stdin=subprocess.PIPE)
    assert emitter.process.stdin
    emitter.process.stdin.write(b"one\n\ntwo\n")
    emitter.process.stdin.flush()
    emitter.shows("Sent two")
    emitter.send(signal.SIGINT)
    emitter.ends(130)
    assert "2 tasks confirmed. Go on from line 4 of standard input." in emitter.err
    emitter.process.stdin.close()


def test_ctrl_c_before_the_last_confirm_is_no_failure_if_that_still_comes(scripts: Scripts, relay: Relay) -> None:
    emitter = scripts.emitter("--url", relay.url, "the", "task")
    relay.delay = 0.3  # for each piece that comes from RabbitMQ: less than the emitter waits for the last confirms
    eventually(lambda: b"the task" in relay.last_sent, "it is on its way")
    emitter.send(signal.SIGINT)
    emitter.ends()
    assert " [x] Sent the task" in emitter.lines
    assert emitter.err.strip() == ""


GOOD, LARGE = "good", "too large"  # for the server of the tests below
ENDS = {  # at the prompt; the tasks; what the last publish brings; whether Ctrl+C comes while it reads; its exit status
    "words or a file": (False, [GOOD, GOOD], "a confirm", False, 0),
    "one of them is refused": (False, [LARGE, GOOD], "a confirm", False, 1),
    "Ctrl+C in the middle": (False, [GOOD], "a confirm", True, 130),
    "Ctrl+C in the middle, and one is refused": (False, [LARGE, GOOD], "a confirm", True, 130),
    "Ctrl+C before the last confirm": (False, [GOOD], "Ctrl+C, a confirm", False, 0),
    "Ctrl+C before the last confirm, and one is refused": (False, [LARGE, GOOD], "Ctrl+C, a confirm", False, 1),
    "a last confirm as late as the connection's end": (False, [GOOD], "Ctrl+C, a late confirm", False, 0),
    "Ctrl+C, and no last confirm": (False, [GOOD], "Ctrl+C", False, 130),
    "Ctrl+C, no last confirm, and one is refused": (False, [LARGE, GOOD], "Ctrl+C", False, 130),
    "end of input at the prompt": (True, [GOOD], "a confirm", False, 0),
    "end of input at the prompt, and one is refused": (True, [LARGE, GOOD], "a confirm", False, 1),
    "Ctrl+C at the prompt": (True, [GOOD], "a confirm", True, 0),
    "Ctrl+C at the prompt, and one is refused": (True, [LARGE, GOOD], "a confirm", True, 1),
    "Ctrl+C at the prompt, and no last confirm": (True, [LARGE, GOOD], "Ctrl+C", False, 130),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_exit_status_tells_whether_something_was_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    at_prompt, texts, brings, is_interrupted, status = ENDS[case]

    def answer(session: Session, got: Got) -> None:
        if got.body == LARGE.encode():
            session.send(spec.Channel.Close(406, "PRECONDITION_FAILED - message size 9 is larger than 5", 60, 40))
        elif session.number == texts.count(LARGE):  # not on a channel that was closed for the large one
            is_last = len(session.got("Basic.Publish")) == texts.count(GOOD)
            if is_last and "Ctrl+C" in brings:
                os.kill(os.getpid(), signal.SIGINT)
            if not is_last or brings.endswith("a confirm"):
                session.answer(got)

    def confirm(session: Session, got: Got) -> None:
        if "late" in brings:
            session.send(spec.Basic.Ack(1))
        session.answer(got)

    def tasks() -> Iterator[Message]:
        yield from map(new_message, texts)
        if is_interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(emitter_of_tasks, "LAST_CONFIRMS", DEADLINE if brings.endswith("a confirm") else 0.3)
    server.on("Basic.Publish", answer)
    server.on("Channel.Close", confirm)
    with Signals() as signals:
        report = Report(EventLog(None, "emitter"), None, False)
        publisher = Publisher(settings_for(server.url, "tasks", "emitter", float("inf")), report.settled)
        assert emitter_of_tasks.emit(tasks(), publisher, report, signals, at_prompt) == status
    assert report.refused == texts.count(LARGE)
    assert report.confirmed == len(texts) - report.refused - (brings == "Ctrl+C")


def test_what_was_read_before_a_bad_line_is_waited_for(server: Server) -> None:
    def tasks() -> Iterator[Message]:
        yield new_message(GOOD)
        raise InputError("Line 2 is bad.")

    server.on("Basic.Publish", lambda session, got: threading.Timer(0.3, session.answer, [got]).start())
    with Signals() as signals:
        report = Report(EventLog(None, "emitter"), None, False)
        publisher = Publisher(settings_for(server.url, "tasks", "emitter", float("inf")), report.settled)
        assert emitter_of_tasks.emit(tasks(), publisher, report, signals, wait_for_each=False) == 1
    assert report.confirmed == 1


def test_the_line_to_go_on_from_loses_nothing(own_scripts: Scripts) -> None:
    """A broker that is gone for good in the middle of a file: file from that line + confirmed = everything."""
    file = own_scripts.folder / "many.txt"
    file.write_text("".join(f"{number}\n" for number in range(1, 200_001)))
    emitter = own_scripts.emitter("--file", file, "--log-file", own_scripts.log)
    eventually(lambda: own_scripts.log.exists() and own_scripts.log.stat().st_size > 1_000_000, "some are sent")
    own_scripts.broker.node.kill()
    emitter.shows("Reconnecting")
    emitter.send(signal.SIGTERM)
    emitter.ends(130)
    found = re.search(r"([\d,]+) tasks confirmed. Go on from line (\d+)", emitter.err)
    assert found
    confirmed = {int(event["task"]) for event in own_scripts.events("confirmed")}
    assert len(confirmed) == int(found[1].replace(",", "")) < 200_000
    assert confirmed >= set(range(1, int(found[2])))
    assert int(found[2]) not in confirmed


def test_a_queue_that_is_full_holds_the_emitter_up_until_there_is_room(scripts: Scripts, relay: Relay) -> None:
    scripts.emit("first")
    scripts.broker.set_policy(scripts.queue, **{"max-length": 10})
    try:
        eventually(lambda: scripts.broker.api("GET", f"queues/%2F/{scripts.queue}").get("policy"), "the policy holds")
        emitter = scripts.emitter("--url", relay.url, stdin=subprocess.PIPE)
        assert emitter.process.stdin
        emitter.process.stdin.write(b"task\n" * 1200)
        emitter.process.stdin.close()
        emitter.shows("The queue takes no tasks for now")
        eventually(lambda: len(relay.sockets) > 2, "it tries another connection")
        worker = scripts.worker("--seconds-per-dot", 0)
        emitter.ends()
        assert "Sent 1,200 tasks" in emitter.out
        assert "Reconnecting" not in emitter.err
        worker.shows("Done.", times=1201)
    finally:
        scripts.broker.api("DELETE", f"policies/%2F/{scripts.queue}")


def test_a_queue_deleted_under_the_emitter_is_declared_again(scripts: Scripts) -> None:
    emitter = scripts.emitter("--verbose", stdin=subprocess.PIPE)
    assert emitter.process.stdin
    for word in ("one", "two"):
        emitter.process.stdin.write(f"{word}\n".encode())
        emitter.process.stdin.flush()
        emitter.shows(f"Sent {word}")
        if word == "one":
            scripts.broker.drop(scripts.queue)
    emitter.process.stdin.close()
    emitter.ends()
    assert f"Queue {scripts.queue} is gone; it will be declared again." in emitter.err
    assert scripts.broker.bodies(scripts.queue) == ["two"]


def test_standard_input_that_does_not_block_is_waited_for(scripts: Scripts) -> None:
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    emitter = scripts.emitter("--log-file", scripts.log, stdin=reads)
    os.close(reads)
    for number in range(1, 4):
        os.write(writes, b"ta")
        time.sleep(0.3)  # time in which half a line could be taken for all there is
        os.write(writes, b"sk %d\n" % number)
    os.close(writes)
    emitter.ends()
    assert [event["task"] for event in scripts.events()] == ["task 1", "task 2", "task 3"]


def test_a_reader_that_is_slow_does_not_stop_the_heartbeats(scripts: Scripts) -> None:
    """The main thread waits for the full pipe; the keeper must not."""
    url = f"{scripts.broker.url}?heartbeat=1"
    emitter = scripts.emitter("--verbose", "--url", url, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert emitter.process.stdin
    assert emitter.process.stdout
    for _ in range(1000):
        emitter.process.stdin.write(b"x" * 300 + b"\n")
    emitter.process.stdin.close()
    emitter.process.stdout.readline()
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + 5, "five heartbeats go by")
    assert emitter.process.stdout.read().count(b"[x] Sent xxx") == 999
    emitter.process.stdout.close()
    emitter.ends()
    assert emitter.err == ""


def test_output_that_is_full_while_it_waits_for_input_does_not_stop_the_heartbeats(
    scripts: Scripts, relay: Relay
) -> None:
    """The main thread reads; who reports what was confirmed meanwhile must not wait for the reader of that."""
    reader, writer = os.pipe()
    emitter = scripts.emitter("--verbose", "--url", f"{relay.url}?heartbeat=1", stdin=subprocess.PIPE, stdout=writer)
    fill(writer)
    os.close(writer)
    pipe = emitter.process.stdin
    assert pipe is not None
    pipe.write(b"one\n")
    pipe.flush()
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 1, "the task is sent")
    before = relay.heartbeats
    eventually(lambda: relay.heartbeats > before + 4, "it is alive long after the confirm came")
    with os.fdopen(reader, "rb") as output:
        pipe.write(b"two\n")
        pipe.close()
        assert output.read().strip(b".").startswith(b" [x] Sent one\n [x] Sent two\n [x] Sent 2 tasks")
    emitter.ends()
    assert emitter.err == ""


def test_ctrl_c_names_the_next_line_exactly(scripts: Scripts) -> None:
    numbers = scripts.folder / "numbers.txt"
    numbers.write_text("".join(f"{number}\n" for number in range(1, 200_001)))
    emitter = scripts.emitter("--file", numbers, "--log-file", scripts.log)
    eventually(lambda: scripts.log.exists() and scripts.log.stat().st_size > 200_000, "some are sent")
    for _ in range(3):
        emitter.send(signal.SIGINT)
    emitter.ends(130)
    confirmed = len({event["line"] for event in scripts.events("confirmed")})
    assert f"{confirmed:,} tasks confirmed. Go on from line {confirmed + 1} of" in emitter.err


# ---- The log


def test_the_log_names_what_is_confirmed(scripts: Scripts) -> None:
    emitter = scripts.emit("--log-file", scripts.log, stdin=b"one\n\ntwo\n")
    ids = [message["properties"]["message_id"] for message in scripts.broker.messages(scripts.queue)]
    first, second = scripts.events()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", first.pop("time"))
    assert first.pop("name") == f"emitter-{socket.gethostname()}-{emitter.process.pid}"
    assert first == {"event": "confirmed", "message_id": ids[0], "task": "one", "line": 1, "after": 1, "next_line": 2}
    assert (second["message_id"], second["task"], second["line"]) == (ids[1], "two", 3)


def test_a_log_on_a_full_disk_costs_no_task(scripts: Scripts) -> None:
    emitter = scripts.emit("--log-file", "/dev/full", stdin=b"one\ntwo\n")
    assert emitter.err.count("The log file can't be written: No space left on device") == 1
    assert scripts.broker.bodies(scripts.queue) == ["one", "two"]


# ---- Memory


def peak_memory(scripts: Scripts, *command: object) -> int:
    """Run a script to its end, and return the largest resident memory that it had, in kB."""
    measure = (
        "import os, resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    of_script = [sys.executable, "-c", measure, *scripts.command(*map(str, command))]
    return int(subprocess.check_output(of_script, env=scripts.environment))


def test_a_large_file_takes_no_more_memory_than_a_small_one(scripts: Scripts) -> None:
    peaks = []
    for number in (5_000, 30_000):
        file = scripts.folder / f"{number}.txt"
        file.write_text("a task of some forty bytes, as many are\n" * number)
        peaks.append(peak_memory(scripts, "emitter_of_tasks.py", "--file", file))
    assert peaks[1] < peaks[0] * 1.1


def test_a_large_task_is_in_memory_a_few_times_only(scripts: Scripts) -> None:
    file = scripts.folder / "large.txt"
    file.write_text(f"{'x' * 12_000_000}👍\n")  # for which each character takes four bytes in Python
    assert peak_memory(scripts, "emitter_of_tasks.py", "--file", file) < 130_000
    scripts.emit("--file", file)  # a second one, because the first must not be there any more when it comes
    assert peak_memory(scripts, "listening_worker.py", "--burst") < 60_000


@pytest.mark.parametrize("frame_max", [4096, 131_072])
def test_the_frames_of_a_message_are_those_that_pika_makes(frame_max: int) -> None:
    largest = frame_max - 8
    encoder = Encoder("größe", 7, frame_max)
    for size in (0, 1, largest - 1, largest, largest + 1, 2 * largest, 300_000):
        message = new_message(b"x" * size)
        parts = [message.body[start : start + largest] for start in range(0, size, largest)]
        frames = [
            pika.frame.Method(7, pika.spec.Basic.Publish(routing_key="größe", mandatory=True)),
            pika.frame.Header(7, size, properties(message.message_id, message.timestamp)),
            *(pika.frame.Body(7, part) for part in parts),
        ]
        assert b"".join(encoder.frames(message)) == b"".join(frame.marshal() for frame in frames)


def test_a_task_of_any_size_arrives_whole(scripts: Scripts) -> None:
    """Around the largest piece of a body that is in one frame, which is 8 bytes less than a frame."""
    tasks = ["x" * size for size in (1, 8183, 8184, 8185, 16_367, 16_368, 16_369, 50_000)]
    file = scripts.folder / "tasks.txt"
    file.write_text("\n".join(tasks))
    scripts.emit("--file", file, "--url", f"{scripts.broker.url}?frame_max=8192")
    assert scripts.broker.bodies(scripts.queue) == tasks


def test_what_is_confirmed_after_ctrl_c_is_in_the_log(scripts: Scripts, relay: Relay) -> None:
    emitter = scripts.emitter("--url", relay.url, "--log-file", scripts.log, stdin=subprocess.PIPE)
    pipe = emitter.process.stdin
    assert pipe is not None
    pipe.write(b"first\n")
    pipe.flush()
    eventually(lambda: scripts.events("confirmed"), "the first is confirmed")
    relay.delay = 1.5  # more than the emitter waits for the last confirms, and less than for the connection's end
    pipe.write(b"".join(b"task %d\n" % number for number in range(20)))
    pipe.flush()
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 21, "all are sent")
    emitter.send(signal.SIGINT)
    emitter.process.wait(20)
    pipe.close()
    confirmed = re.search(r"(\d+) tasks? confirmed", emitter.err + emitter.out)
    assert confirmed is not None
    assert int(confirmed[1]) == 21
    assert len(scripts.events("confirmed")) == 21


CLOSE = [method.INDEX.to_bytes(4, "big") for method in (pika.spec.Channel.Close, pika.spec.Connection.Close)]


@pytest.mark.parametrize(
    ("again", "confirmed"), [("waits for confirms", 21), ("closes", 21), ("waits for what never comes", 1)]
)
def test_a_second_ctrl_c_cuts_no_confirm_off(scripts: Scripts, relay: Relay, again: str, confirmed: int) -> None:
    """Neither that comes while the emitter waits for the last confirms, nor while it closes its connection."""
    emitter = scripts.emitter("--url", relay.url, "--log-file", scripts.log, stdin=subprocess.PIPE)
    assert emitter.process.stdin
    with emitter.process.stdin as pipe:
        pipe.write(b"first\n")
        pipe.flush()
        eventually(lambda: scripts.events("confirmed"), "the first is confirmed")
        relay.freeze_answers()
        pipe.write(b"another\n" * 20)
        pipe.flush()
        eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 21, "all are sent")
        emitter.send(signal.SIGINT)
        if again == "closes":
            eventually(lambda: any(method in relay.last_sent for method in CLOSE), "it closes its connection")
        else:
            eventually(lambda: "pipe" not in waits_in(emitter.process.pid), "it reads no more")
        emitter.send(signal.SIGINT)
        if confirmed == 21:
            relay.thaw()
        emitter.ends(130)
    assert f" confirmed. Go on from line {confirmed + 1} of standard input." in emitter.err
    assert len(scripts.events("confirmed")) == confirmed


def test_an_emitter_whose_output_nobody_reads_ends_when_asked_again(scripts: Scripts) -> None:
    reader, writer = os.pipe()
    emitter = scripts.emitter("--verbose", "--file", "-", stdin=subprocess.PIPE, stdout=writer)
    os.close(writer)
    pipe = emitter.process.stdin
    assert pipe is not None
    pipe.write(b"".join(b"task %d %s\n" % (number, b"x" * 400) for number in range(900)))
    pipe.flush()
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 900, "all are sent")

    def has_ended() -> bool:
        emitter.send(signal.SIGINT)
        return emitter.process.poll() is not None

    eventually(has_ended, "asked for long, it ends")
    # The last one may come when the handlers are put back, and Python ends.
    assert emitter.process.returncode in (130, -signal.SIGINT)
    os.close(reader)
    with contextlib.suppress(BrokenPipeError):
        pipe.close()
