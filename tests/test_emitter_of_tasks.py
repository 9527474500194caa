"""What emitter_of_tasks.py promises: its ways in, its exit status, and that nothing is lost however it ends."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import DEADLINE, PROJECT, Scripts, eventually, feed, waits_in
from in_process import said_by
from pika import spec
from scripted_server import Got, Server, Session, nothing, takes_up_to

import emitter_of_tasks
from task_queue import InputError
from task_queue.emitter.message import Message, new_message
from task_queue.emitter.publisher import WINDOW, Publisher
from task_queue.emitter.task_report import Report
from task_queue.event_log import EventLog
from task_queue.process.shutdown import Shutdown
from task_queue.settings import connection_settings


def test_flags_count_before_the_environment_and_a_comma_in_a_query_begins_no_node(scripts: Scripts) -> None:
    query, other = "?tcp_options={'TCP_KEEPIDLE':60,'TCP_KEEPCNT':3}", f"{scripts.queue}-other"
    url = f"amqp://localhost:1/%2F{query},{scripts.broker.url}{query}"
    said_by(scripts, "emitter_of_tasks.py", "task", "--queue", other, "--url", url, AMQP_URL="amqp://localhost:1")
    assert scripts.broker.bodies(other) == ["task"]
    scripts.broker.drop(other, f"{other}.dead-letters")


@pytest.mark.parametrize("way", ["< /dev/null", "<&-"])  # as where an editor, or cron, starts a program
def test_where_there_is_no_input_it_says_what_it_misses(at_server: Scripts, way: str) -> None:
    command = " ".join(at_server.command("emitter_of_tasks.py"))
    run = at_server.start_command(["sh", "-c", f"exec {command} {way}"]).ends(2)
    assert run.out == ""
    assert run.err.startswith(" [!] No task is given. Give one as words, or a file with --file, or start this in a ")


def test_a_missing_pika_is_said_with_what_installs_it(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "listening_worker.py", tmp_path)
    shutil.copytree(PROJECT / "task_queue", tmp_path / "task_queue")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = [sys.executable, "-S", "listening_worker.py"]  # without the packages that were installed
    for end in (
        "It is in .venv, so start this with:  .venv/bin/python listening_worker.py\n",
        "By hand:\npython3 -m venv .venv\n.venv/bin/python -m pip install -r requirements.txt\n",
    ):
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.startswith(" [!] The Python package pika is missing. ")
        assert run.stderr.endswith(end)
        shutil.rmtree(tmp_path / ".venv", ignore_errors=True)


GOOD, LARGE = "good", "too large"
ENDS = {  # at the prompt; the tasks; what the last publish brings; what comes while it reads; its exit status
    "words or a file": (False, [GOOD, GOOD], "a confirm", None, 0),
    "one of them is refused": (False, [LARGE, GOOD], "a confirm", None, 1),
    "a bad line": (False, [GOOD], "in a while a confirm", InputError("bad"), 1),
    "Ctrl+C in the middle": (False, [GOOD], "a confirm", KeyboardInterrupt, 130),
    "Ctrl+C in the middle, and one is refused": (False, [LARGE, GOOD], "a confirm", KeyboardInterrupt, 130),
    "Ctrl+C before the last confirm": (False, [GOOD], "Ctrl+C, a confirm", None, 0),
    "Ctrl+C before the last confirm, and one is refused": (False, [LARGE, GOOD], "Ctrl+C, a confirm", None, 1),
    "a last confirm as late as the connection's end": (False, [GOOD], "Ctrl+C, a late confirm", None, 0),
    "Ctrl+C, and no last confirm": (False, [GOOD], "Ctrl+C", None, 130),
    "Ctrl+C, no last confirm, and one is refused": (False, [LARGE, GOOD], "Ctrl+C", None, 130),
    "end of input at the prompt": (True, [GOOD], "a confirm", None, 0),
    "end of input at the prompt, and one is refused": (True, [LARGE, GOOD], "a confirm", None, 1),
    "Ctrl+C at the prompt": (True, [GOOD], "a confirm", KeyboardInterrupt, 0),
    "Ctrl+C at the prompt, and one is refused": (True, [LARGE, GOOD], "a confirm", KeyboardInterrupt, 1),
    "Ctrl+C at the prompt, and no last confirm": (True, [LARGE, GOOD], "Ctrl+C", None, 130),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_exit_status_tells_whether_something_was_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    at_prompt, texts, brings, error, status = ENDS[case]
    takes = takes_up_to(len(GOOD))

    def answer(session: Session, got: Got) -> None:
        is_last = session.number == texts.count(LARGE) and len(session.got("Basic.Publish")) == texts.count(GOOD)
        if is_last and "Ctrl+C" in brings:
            os.kill(os.getpid(), signal.SIGINT)
        if not is_last or brings.endswith("a confirm"):
            threading.Timer(0.3 * ("in a while" in brings), takes, [session, got]).start()

    def confirm(session: Session, got: Got) -> None:
        if "late" in brings:
            session.send(spec.Basic.Ack(1))
        session.answer(got)

    def tasks() -> Iterator[Message]:
        yield from map(new_message, texts)
        if error is not None:
            raise error

    monkeypatch.setattr(emitter_of_tasks, "LAST_CONFIRMS", DEADLINE if brings.endswith("a confirm") else 0.3)
    server.on("Basic.Publish", answer)
    server.on("Channel.Close", confirm)
    with Shutdown() as shutdown:
        report = Report(EventLog(None, "emitter"), None, False)
        settings = connection_settings(server.url, "tasks", "emitter", float("inf"))
        publisher = Publisher(settings, shutdown, report.settled)
        assert emitter_of_tasks.emit(tasks(), publisher, report, shutdown, at_prompt) == status
    assert report.refused == texts.count(LARGE)
    assert report.confirmed == len(texts) - report.refused - (brings == "Ctrl+C")
    assert ("Not confirmed: good" in capsys.readouterr().err) == (brings == "Ctrl+C")


@pytest.mark.parametrize(
    ("again", "confirmed"), [("waits for confirms", 21), ("closes", 21), ("waits for what never comes", 1)]
)
def test_a_second_ctrl_c_cuts_no_confirm_off(at_server: Scripts, server: Server, again: str, confirmed: int) -> None:
    server.on("Basic.Publish", nothing)
    server.on("Channel.Close", nothing)
    emitter = at_server.emitter("--log-file", at_server.log, stdin=subprocess.PIPE)
    feed(emitter, b"task\n" * 21)
    server.gets("Basic.Publish", times=21)
    server.session(0).send(spec.Basic.Ack(1))
    eventually(lambda: at_server.events("confirmed"), "the first is confirmed")
    emitter.send(signal.SIGINT)
    if again == "closes":
        server.gets("Channel.Close")
    else:
        eventually(lambda: "pipe" not in waits_in(emitter.process.pid), "it reads no more")
    emitter.send(signal.SIGTERM)  # which counts at once; the same signal would after 0.2 s
    if confirmed == 21:
        server.session(0).send(spec.Basic.Ack(21, multiple=True))
    emitter.ends(130)
    feed(emitter, b"", is_last=True)
    assert f" confirmed. Go on with:  --from-line {confirmed + 1}\n" in emitter.err
    assert len(at_server.events("confirmed")) == confirmed


def test_a_queue_that_is_full_holds_the_emitter_up_until_there_is_room(scripts: Scripts) -> None:
    scripts.emit("first")
    scripts.broker.set_policy(scripts.queue, **{"max-length": 1})
    try:
        eventually(lambda: scripts.broker.api("GET", f"queues/%2F/{scripts.queue}").get("policy"), "the policy holds")
        scripts.emit("second")  # RabbitMQ refuses what comes when there are too many already
        emitter = scripts.emitter("--file", "-", stdin=subprocess.PIPE)
        feed(emitter, b"task\n" * 20, is_last=True)
        emitter.shows(" [*] The queue takes no tasks for now")
        worker = scripts.worker("--seconds-per-dot", 0)
        assert "Sent 20 tasks" in emitter.ends().out
        assert "Reconnecting" not in emitter.err
        worker.shows("Done.", times=22)
    finally:
        scripts.broker.api("DELETE", f"policies/%2F/{scripts.queue}")


def test_a_queue_deleted_under_the_emitter_is_declared_again(scripts: Scripts) -> None:
    emitter = scripts.emitter("--verbose", stdin=subprocess.PIPE)
    for word in ("one", "two"):
        feed(emitter, f"{word}\n".encode(), is_last=word == "two")
        emitter.shows(f"Sent {word}")
        if word == "one":
            scripts.broker.drop(scripts.queue)
    emitter.ends()
    assert f"Queue {scripts.queue} is gone; it will be declared again." in emitter.err
    assert scripts.broker.bodies(scripts.queue) == ["two"]


def test_ctrl_c_while_the_last_confirms_of_a_file_arrive_cuts_nothing_short(at_server: Scripts, server: Server) -> None:
    """Also when the window is full at the last line, so that the end of the file has not been seen yet."""
    (at_server.folder / "tasks.txt").write_text("task\n" * WINDOW)
    server.on("Basic.Publish", nothing)
    emitter = at_server.emitter("--file", "tasks.txt")
    server.gets("Basic.Publish", times=WINDOW)
    emitter.send(signal.SIGINT)
    server.session(0).send(spec.Basic.Ack(WINDOW, multiple=True))
    assert f" [x] Sent {WINDOW:,} tasks" in emitter.ends(0).out
    assert "Go on" not in emitter.err
