"""Every command, flag and program in the README does what it says there."""

import contextlib
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pika
import pytest
from harness import PROJECT, Scripts, eventually

README = (PROJECT / "README.md").read_text()
PROGRAMS = (
    "emitter_of_tasks.py",
    "listening_worker.py",
    "tools/demo.py",
    "tools/rabbitmq.py",
    "tests/faults/run.py",
)


def blocks(*languages: str) -> list[str]:
    """Return the fenced code blocks in these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands() -> list[str]:
    """Return each command line of the README, without its comment."""
    lines = "".join(blocks("sh")).splitlines() + re.findall(r"^\$ (.*)", "".join(blocks("console")), re.MULTILINE)
    return list(dict.fromkeys(line.partition("  #")[0].strip() for line in lines))


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_every_flag_is_in_the_readme_and_every_flag_there_exists() -> None:
    helps = [subprocess.check_output([sys.executable, PROJECT / program, "--help"], text=True) for program in PROGRAMS]
    exist = set().union(*map(flags_in, helps)) - {"--help"}
    assert flags_in(README) == exist


@pytest.mark.parametrize("command", [command for command in commands() if "/" not in command.split()[1]])
def test_every_command_of_the_readme_runs(scripts: Scripts, command: str) -> None:
    if "listening_worker.py" in command and "--burst" not in command:
        command += " --burst"
    if command.startswith("cat"):
        command = f"echo '{{}}' > events.jsonl; {command}"
    for name in ("emitter_of_tasks.py", "listening_worker.py", "README.md"):
        (scripts.folder / name).symlink_to(PROJECT / name)
    (scripts.folder / "tools").symlink_to(PROJECT / "tools")
    (scripts.folder / "tasks.csv").write_text("one\ntwo\n")
    environment = {**scripts.environment, "PATH": f"{Path(sys.executable).parent}:{scripts.environment['PATH']}"}
    scripts.emit("README.")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=scripts.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "[x]" in done.stdout or command.endswith("--retry-dead-letters") or "cat" in command


def test_the_function_of_the_readme_is_a_worker(scripts: Scripts) -> None:
    scripts.emit(stdin=b"one\ntwo\n")
    lines = scripts.program(blocks("python")[0].replace("listen(perform", "listen(perform, burst=True")).lines
    assert [line for line in lines if "working" in line] == ["working on 'one'", "working on 'two'"]


def test_the_deposits_of_the_readme_are_made_once_each_though_workers_die(scripts: Scripts) -> None:
    program = scripts.folder / "bank.py"
    program.write_text(blocks("python")[1])
    scripts.emit(stdin=b"1\n" * 400)
    ids = [message["properties"]["message_id"] for message in scripts.broker.messages(scripts.queue)]
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(scripts.broker.url))) as connection:
        channel = connection.channel()
        for message_id in ids[:50]:  # as an emitter does that has not heard of them
            properties = pika.BasicProperties(message_id=message_id)
            channel.basic_publish("", scripts.queue, b"1", properties)
    environment = {"PYTHONPATH": str(PROJECT)}
    second = scripts.start(str(program), env=environment)
    for _ in range(5):
        worker = scripts.start(str(program), env=environment)
        worker.shows("Waiting")
        worker.send(signal.SIGKILL)
        worker.ends(-signal.SIGKILL)
    worker = scripts.start(str(program), env=environment)
    for each in (worker, second):
        each.shows("Waiting")
    eventually(lambda: scripts.broker.counts(scripts.queue)[0] == 0, "the queue is empty")
    for each in (worker, second):
        each.send(signal.SIGTERM)
        each.ends()
    assert "deposited before 1" in second.lines + worker.lines
    with contextlib.closing(sqlite3.connect(scripts.folder / "bank.db")) as bank:
        assert bank.execute("SELECT balance FROM account").fetchall() == [(400,)]


def test_the_files_it_names_are_there() -> None:
    for name in re.findall(r"`((?:tests|tools)/[\w./]+|[\w]+\.(?:py|txt))`", README):
        assert (PROJECT / name).exists(), name


def test_every_documented_number_is_that_of_the_code() -> None:
    emitter = (PROJECT / "emitter_of_tasks.py").read_text()
    assert "at most 1,000 tasks or 16 MiB unconfirmed" in README
    assert "WINDOW = 1000 " in emitter
    assert "WINDOW_BYTES = 16 * 1024 * 1024 " in emitter
    assert "After its 21st try (the queue's [delivery limit][limit] is 20" in README
    assert "DELIVERY_LIMIT = 20 " in (PROJECT / "task_queue.py").read_text()
    assert "ACK_TIMEOUT_HOURS = 24.0\n" in (PROJECT / "listening_worker.py").read_text()
