"""Output that nobody takes, as at a paused terminal or in a full pipe: it costs no heartbeat, memory or Ctrl+C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Run, Scripts, eventually, fill, waits_for_output
from scripted_server import Server


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """A pipe to write into that takes nothing, and that nobody reads."""
    reader, writer = os.pipe()
    fill(writer)
    yield writer
    os.close(writer)
    os.close(reader)


def memory(run: Run) -> float:
    """Return how many MB a process takes."""
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_an_emitter_that_can_not_tell_takes_in_no_more_than_its_window(
    at_server: Scripts, server: Server, full_pipe: int
) -> None:
    emitter = at_server.emitter("--verbose", stdin=subprocess.PIPE, stdout=full_pipe, bufsize=0)
    pipe = emitter.process.stdin
    assert pipe

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), pipe:
            for _ in range(20_000):
                pipe.write(b"x" * 3000 + b"\n")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    server.gets("Basic.Publish")
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + 3, "time goes by in which it could take in everything")
    assert len(server.got("Basic.Publish")) <= 1000
    assert memory(emitter) < 60
    emitter.send(signal.SIGINT)
    emitter.ends(130)
    writer.join()
    assert "confirmed. Go on from line" in emitter.err


def test_a_worker_that_can_not_complain_comes_back_and_works(
    at_server: Scripts, server: Server, full_pipe: int
) -> None:
    worker = at_server.start("listening_worker.py", "--log-file", at_server.log, stderr=full_pipe)
    server.gets("Basic.Consume")
    for number in range(3):
        server.session(number).hang_up()
        server.gets("Basic.Consume", times=number + 2)
    server.put(b"task")
    eventually(lambda: at_server.events("done"), "the task is done")
    worker.send(signal.SIGTERM)
    worker.ends()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_can_not_even_say_that_it_waits_ends_when_asked(
    at_server: Scripts, server: Server, full_pipe: int, number: signal.Signals
) -> None:
    worker = at_server.start("listening_worker.py", stdout=full_pipe)
    server.gets("Basic.Qos")
    worker.send(number)
    worker.ends()
    assert server.got("Basic.Consume") == []


def test_a_worker_that_can_not_tell_of_a_task_finishes_it_and_does_no_further_one(
    at_server: Scripts, server: Server, full_pipe: int
) -> None:
    reader, writer = os.pipe()
    worker = at_server.start("listening_worker.py", "--log-file", at_server.log, stdout=writer)
    assert b"Waiting" in os.read(reader, 1000)
    fill(writer)
    server.put(b"one..", b"two")
    eventually(lambda: server.session(0).in_hand, "it has the task")
    eventually(lambda: waits_for_output(worker.process.pid), "it can't tell so")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert [(event["event"], event["task"]) for event in at_server.events()] == [
        ("received", "one.."),
        ("done", "one.."),
    ]
    assert [body for body, _ in server.tasks] == [b"two"]
    os.close(writer)
    os.close(reader)


def test_a_terminal_that_is_paused_holds_up_nothing_but_its_worker(at_server: Scripts, server: Server) -> None:
    """A terminal takes a part of a line, and then nothing: the write itself waits, not what looks before it."""
    server.put(*(b"x" * 400 for _ in range(1000)))
    terminal = at_server.at_terminal("listening_worker.py")
    server.gets("Basic.Ack")
    eventually(lambda: no_more_come(server), "it does no further task", within=60)
    assert len(server.got("Basic.Ack")) < 1000
    terminal.kill(signal.SIGTERM)
    eventually(lambda: not terminal.isalive(), "it ends, though nobody has read a line")


def no_more_come(server: Server) -> bool:
    before = len(server.got("Basic.Ack"))
    time.sleep(1)  # much longer than a task takes
    return len(server.got("Basic.Ack")) == before


# ---- Logs and prompts that block


@pytest.fixture
def full_log(at_server: Scripts) -> Iterator[None]:
    """A log that is a named pipe, with a reader that reads nothing, and no room."""
    os.mkfifo(at_server.log)
    reader = os.open(at_server.log, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(at_server.log, os.O_WRONLY)
    fill(writer)
    yield
    os.close(writer)
    os.close(reader)


@pytest.mark.usefixtures("full_log")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_whose_log_takes_nothing_ends_when_asked(
    at_server: Scripts, server: Server, number: signal.Signals
) -> None:
    server.put(b"task")
    worker = at_server.start("listening_worker.py", "--log-file", at_server.log)
    worker.shows("Received task")
    eventually(lambda: waits_for_output(worker.process.pid), "it can't log it")
    worker.send(number)
    worker.ends(within=5)
    assert len(server.got("Basic.Ack") + server.got("Basic.Nack")) == 1


@pytest.mark.usefixtures("full_log")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_emitter_whose_log_takes_nothing_ends_when_asked(
    at_server: Scripts, server: Server, number: signal.Signals
) -> None:
    emitter = at_server.emitter("--log-file", at_server.log, stdin=subprocess.PIPE, bufsize=0)
    assert emitter.process.stdin
    emitter.process.stdin.write(b"task\n")
    server.gets("Basic.Publish")
    emitter.send(number)
    emitter.ends(130, within=5)
    emitter.process.stdin.close()


@pytest.mark.parametrize("script", ["emitter_of_tasks.py", "listening_worker.py"])
def test_a_log_that_is_a_pipe_without_a_reader_is_an_error(at_server: Scripts, script: str) -> None:
    os.mkfifo(at_server.log)
    words = ["task"] * (script == "emitter_of_tasks.py")
    run = at_server.start(script, "--log-file", at_server.log, *words).ends(2)
    assert "can't be opened" in run.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("asked", ["Would you like to monitor RabbitMQ queues", "Enter new task: "])
def test_a_prompt_at_a_paused_terminal_ends_at_the_first_signal(
    at_server: Scripts, server: Server, asked: str, number: signal.Signals
) -> None:
    terminal = at_server.at_terminal("emitter_of_tasks.py", *(["--no-admin"] if "task" in asked else []))
    terminal.expect(asked)
    terminal.send("\x13")  # Ctrl+S
    terminal.sendline("" if "task" in asked else "maybe")
    eventually(lambda: Path(f"/proc/{terminal.pid}/syscall").read_text().split()[1:2] == ["0x1"], "it asks again")
    terminal.kill(number)
    eventually(lambda: not terminal.isalive(), "it ends", within=5)
