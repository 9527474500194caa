"""--run where the worker, and not the task, lacks what the work needs: the task goes back, and the worker ends."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Run, Scripts
from in_process import work
from scripted_server import Server

from listening_worker import running
from task_queue import WorkerError


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that does nothing."""
    file = tmp_path / "place" / "program"
    file.parent.mkdir()
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def start(scripts: Scripts, server: Server, command: str) -> Run:
    """Start a worker, and return when it waits for tasks."""
    run = scripts.start("listening_worker.py", "--run", command, "--log-file", scripts.log)
    server.gets("Basic.Consume")
    return run


def both_are_still_there(scripts: Scripts, server: Server) -> None:
    """Check that the worker handed the first of two tasks back, and took no other one."""
    assert [event["event"] for event in scripts.events()] == ["received", "requeued"]
    assert len(server.got("Basic.Nack")) == 1
    assert server.got("Basic.Reject") == server.got("Basic.Ack") == []
    assert [task for task, _ in server.tasks] == [b"one", b"two"]


def hands_back(scripts: Scripts, server: Server, perform: Callable[[Any], object], why: str) -> None:
    """Check that the worker ends for this reason."""
    server.put(b"one", b"two")
    with pytest.raises(WorkerError, match=f"^--run: .* can't be started: {why}[.]$"):
        work(scripts, perform, burst=False)
    both_are_still_there(scripts, server)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda file: file.unlink(), "No such file or directory"),
    "not executable": (lambda file: file.chmod(0o644), "Permission denied"),
    "no program": (lambda file: file.write_text("nonsense"), "Exec format error"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "Permission denied"),
    "without its interpreter": (lambda file: file.write_text("#!/no/such/interpreter\n"), "No such file or directory"),
}


@pytest.mark.parametrize(("spoil", "why"), BROKEN.values(), ids=BROKEN)
def test_a_program_that_can_not_be_started_is_not_the_tasks_fault(
    at_server: Scripts, server: Server, program: Path, spoil: Callable[[Path], object], why: str
) -> None:
    perform = running(f"{program} {{}}")
    spoil(program)
    hands_back(at_server, server, perform, why)


def test_no_file_descriptors_are_not_the_tasks_fault(at_server: Scripts, server: Server) -> None:
    run = start(at_server, server, "true")
    _, hard = resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, (4, hard))
    server.put(b"one", b"two")
    run.ends(1)
    assert run.err == " [!] --run: true can't be started: Too many open files.\n"
    both_are_still_there(at_server, server)


@pytest.mark.parametrize("name", ["EAGAIN", "ENOMEM", "ENFILE", "E2BIG"])
def test_what_the_system_refuses_is_not_the_tasks_fault(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No more processes, memory or files; or an environment that is too large, for the task is in no argument."""
    number = getattr(errno, name)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    perform = running("true")
    monkeypatch.setattr(subprocess.Popen, "_execute_child", refuse)
    hands_back(at_server, server, perform, os.strerror(number))


def test_a_working_directory_that_is_gone_is_not_the_tasks_fault(
    at_server: Scripts, server: Server, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(program.parent)
    perform = running("./program")
    program.unlink()
    program.parent.rmdir()
    hands_back(at_server, server, perform, "No such file or directory")


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"a\0b", "NUL"), (b"x" * 3_000_000, "too long for an argument of a command (3,000,000 bytes)")],
)
def test_a_task_that_fits_in_no_argument_is_its_own_fault(
    at_server: Scripts, server: Server, body: bytes, why: str
) -> None:
    server.put(body, b"good")
    lines = work(at_server, running("test {} = good"), burst=False, max_tasks=2)
    assert any(line.startswith(" [!] Failed (try 1 of 21): the task") for line in lines)
    assert why in at_server.events("failed")[0]["error"]
    assert len(server.got("Basic.Reject")) == 2  # as it comes again at once


def test_nor_matters_its_size_where_the_command_does_not_have_it_as_an_argument(
    at_server: Scripts, server: Server
) -> None:
    server.put(b"\0" + b"x" * 3_000_000)
    command = f"sh -c 'test $(wc -c) = 3000001 && echo > {at_server.folder}/all'"
    assert " [x] Done." in work(at_server, running(command))
    assert (at_server.folder / "all").exists()


def test_a_function_may_say_that_the_worker_lacks_something(at_server: Scripts, server: Server) -> None:
    server.put(b"one", b"two")

    def perform(_: object) -> None:
        raise WorkerError("the database is down")

    with pytest.raises(WorkerError, match="the database is down"):
        work(at_server, perform, burst=False)
    both_are_still_there(at_server, server)


def test_a_process_that_a_command_leaves_behind_is_not_waited_for(
    at_server: Scripts, server: Server, program: Path
) -> None:
    """It has the command's standard input, with a task that no pipe would take whole."""
    server.put(b"x" * 200_000)
    left = at_server.folder / "left"
    # The shell gives a process in the background another standard input, if it is not told so.
    program.write_text(f"#!/bin/sh\nexec 3<&0\nsleep 60 <&3 >/dev/null 2>&1 &\necho $! > {left}\n")
    try:
        assert " [x] Done." in work(at_server, running(str(program)))
        assert Path(f"/proc/{int(left.read_text())}/cmdline").read_bytes(), "it has ended"
        assert server.got("Basic.Reject") == []
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.kill(int(left.read_text()), signal.SIGKILL)
