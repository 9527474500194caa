"""--run where the worker, and not the task, lacks what the work needs: the task goes back, and the worker ends."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
from harness import Run, Scripts
from scripted_server import Server


def program(scripts: Scripts, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    """Make a program."""
    file = scripts.folder / "program"
    file.write_text(text)
    file.chmod(mode)
    return file


def start(scripts: Scripts, server: Server, command: str) -> Run:
    """Start a worker, and return when it waits for tasks."""
    run = scripts.start("listening_worker.py", "--run", command, "--log-file", scripts.log)
    server.gets("Basic.Consume")
    return run


def hands_back(scripts: Scripts, server: Server, run: Run, why: str) -> None:
    run.ends(1)
    assert f"can't be started: {why}" in run.err
    assert run.err.count("\n") == 1
    assert [event["event"] for event in scripts.events()] == ["received", "requeued"]
    assert len(server.got("Basic.Nack")) == 1
    assert server.got("Basic.Reject") == server.got("Basic.Ack") == []
    assert [task for task, _ in server.tasks] == [b"one", b"two"]


BROKEN = {
    "gone": (lambda file: file.unlink(), "No such file or directory"),
    "not executable": (lambda file: file.chmod(0o644), "Permission denied"),
    "no program": (lambda file: file.write_text("nonsense"), "Exec format error"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "Permission denied"),
    "without its interpreter": (lambda file: file.write_text("#!/no/such/interpreter\n"), "No such file or directory"),
}


@pytest.mark.parametrize(("spoil", "why"), BROKEN.values(), ids=BROKEN)
def test_a_program_that_can_not_be_started_is_not_the_tasks_fault(
    at_server: Scripts, server: Server, spoil: object, why: str
) -> None:
    file = program(at_server)
    run = start(at_server, server, f"{file} {{}}")
    spoil(file)  # type: ignore[operator]
    server.put(b"one", b"two")
    hands_back(at_server, server, run, why)


def test_no_file_descriptors_are_not_the_tasks_fault(at_server: Scripts, server: Server) -> None:
    run = start(at_server, server, "true")
    _, hard = resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, (4, hard))
    server.put(b"one", b"two")
    hands_back(at_server, server, run, "Too many open files")


@pytest.mark.parametrize("name", ["EAGAIN", "ENOMEM", "ENFILE", "E2BIG"])
def test_what_the_system_refuses_is_not_the_tasks_fault(at_server: Scripts, server: Server, name: str) -> None:
    """No more processes, memory or files; or an environment that is too large, for the task is in no argument."""
    (at_server.folder / "sitecustomize.py").write_text(
        "import _posixsubprocess, errno, os\n"
        "def fork_exec(*_):\n"
        f"    raise OSError(errno.{name}, os.strerror(errno.{name}))\n"
        "_posixsubprocess.fork_exec = fork_exec\n"
    )
    command = ["--run", "true", "--log-file", at_server.log]
    run = at_server.start("listening_worker.py", *command, env={"PYTHONPATH": str(at_server.folder)})
    server.gets("Basic.Consume")
    server.put(b"one", b"two")
    hands_back(at_server, server, run, os.strerror(getattr(errno, name)))


def test_a_working_directory_that_is_gone_is_not_the_tasks_fault(at_server: Scripts, server: Server) -> None:
    place = at_server.folder / "place"
    place.mkdir()
    file = program(at_server).rename(place / "program")
    run = at_server.start("listening_worker.py", "--run", "./program", "--log-file", at_server.log, cwd=place)
    server.gets("Basic.Consume")
    file.unlink()
    place.rmdir()
    server.put(b"one", b"two")
    hands_back(at_server, server, run, "No such file or directory")


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"a\0b", "NUL"), (b"x" * 3_000_000, "too long for an argument of a command (3,000,000 bytes)")],
)
def test_a_task_that_fits_in_no_argument_is_its_own_fault(
    at_server: Scripts, server: Server, body: bytes, why: str
) -> None:
    server.put(body, b"good")
    run = at_server.start(
        "listening_worker.py", "--run", "echo {}", "--max-tasks", 2, "--log-file", at_server.log
    ).ends()
    assert why in at_server.events("failed")[0]["error"]
    assert len(server.got("Basic.Reject")) == 2
    assert "Failed (try 1 of 21): the task" in run.out


def test_nor_matters_its_size_where_the_command_does_not_have_it_as_an_argument(
    at_server: Scripts, server: Server
) -> None:
    server.put(b"\0" + b"x" * 3_000_000)
    run = at_server.start("listening_worker.py", "--run", "wc -c", "--max-tasks", 1).ends()
    assert " [x] Done." in run.lines


def test_a_function_may_say_that_the_worker_lacks_something(at_server: Scripts, server: Server) -> None:
    server.put(b"one", b"two")
    run = at_server.program(
        "from listening_worker import listen\n"
        "from task_queue import WorkerError\n"
        "def work(task):\n"
        "    raise WorkerError('the database is down')\n"
        "try:\n"
        "    listen(work)\n"
        "except WorkerError as error:\n"
        "    print('ended:', error)\n"
    )
    assert run.lines[-2:] == [" [*] Not finished, so it goes back to the queue: one", "ended: the database is down"]
    assert [task for task, _ in server.tasks] == [b"one", b"two"]
    assert len(server.got("Basic.Nack")) == 1


def test_a_process_that_a_command_leaves_behind_is_not_waited_for(at_server: Scripts, server: Server) -> None:
    """It has the command's standard input, with a task that no pipe would take whole."""
    server.put(b"x" * 200_000)
    file = program(at_server, "#!/bin/sh\nsleep 60 >/dev/null 2>&1 &\necho $! > left\n")
    run = at_server.start("listening_worker.py", "--run", str(file), "--max-tasks", 1).ends()
    assert " [x] Done." in run.lines
    os.kill(int((at_server.folder / "left").read_text()), signal.SIGKILL)
