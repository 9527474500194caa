"""--run: what a command gets, how it ends, and what becomes of the task where it can't even be started."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harmful import HARM, SHOWN
from harness import Scripts, eventually, write_program
from in_process import work
from scripted_server import Server

from listening_worker import running
from task_queue import WorkerError


def is_alive(pid: int) -> bool:
    """Tell whether a process runs, and is not just a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


ENDS = {  # a command, its task, and why that has failed; nothing if it is done
    "standard input unread": ("true", b"x" * 1_000_000, ""),
    "no text": (r"""sh -c 'test "$1$(cat)" = $(printf "\377\344\377\344")' sh {}""", b"\xff\xe4", ""),
    "no comment": ("""sh -c 'test "$*" = "-fill #ff0000 out"' sh -fill #ff0000 out""", b"task", ""),
    "what fits in no argument": ("sh -c 'test $(wc -c) = 3000001'", b"\0" + b"x" * 3_000_000, ""),
    "status": ("sh -c 'exit 3'", b"task", "sh ended with exit status 3"),
    "killed": ("sh -c 'kill -9 $$'", b"task", "sh was killed by SIGKILL"),
    "by a signal without a name": ("sh -c 'kill -40 $$'", b"task", "sh was killed by signal 40"),
    "NUL": ("true {}", b"a\0b", "the task has a NUL character"),
    "too long": ("true {}", b"x" * 3_000_000, "the task is too long for an argument of a command (3,000,000 bytes)"),
}


@pytest.mark.parametrize(("command", "body", "why"), ENDS.values(), ids=ENDS)
def test_a_command_succeeds_or_its_task_has_failed(
    at_server: Scripts, server: Server, command: str, body: bytes, why: str
) -> None:
    """It has failed, too, if the command can't be started with just this task."""
    server.put(body)
    lines = work(at_server, running(command), burst=False, max_tasks=1)
    assert lines[2].startswith(f" [!] Failed (try 1 of at most 21): {why}" if why else " [x] Done.")
    assert [record["error"].startswith(why) for record in at_server.events("failed")] == [True] * bool(why)
    assert len(server.got("Basic.Reject")) == bool(why)


OF_A_SHELL = {  # a command, and its word that only a shell understands
    "echo {} > out.txt": ">",
    "echo {} 2>/dev/null": "2>/dev/null",
    "cat | wc": "|",
    "sh -c 'echo $1 > out' sh {}": "",
    "/bin/bash -c true ; ls": "",
    "echo a>b {}": "",
}


@pytest.mark.parametrize("command", OF_A_SHELL)
def test_what_only_a_shell_understands_is_said(capsys: pytest.CaptureFixture[str], command: str) -> None:
    running(command)
    word, program = OF_A_SHELL[command], command.split()[0]
    said = f" [*] --run has no shell: {word} is passed to {program} as it is.\n"
    assert capsys.readouterr().err == (said if word else "")


def test_ctrl_c_ends_the_command_with_its_children(at_server: Scripts, server: Server) -> None:
    """Also one that ignores SIGTERM, when its parent has ended."""
    server.put(b"task")
    stubborn = '(trap "" TERM; echo ready; exec sleep 60)'
    command = f"sh -c 'sleep 60 & echo pid $!; {stubborn} & echo pid $!; echo pid $$; wait'"
    worker = at_server.start("listening_worker.py", "--run", command)
    worker.shows("pid ", times=3)
    worker.shows("ready")
    worker.send(signal.SIGINT)
    worker.ends()
    pids = [int(pid) for pid in re.findall(r"pid (\d+)\n", worker.out)]
    eventually(lambda: not any(map(is_alive, pids)), "all are gone")
    assert list(server.tasks) == [(b"task", True)]


def test_a_command_that_is_ended_may_tidy_up(at_server: Scripts, server: Server) -> None:
    """At a terminal, Ctrl+C reaches it through the worker only."""
    server.put(b"task")
    ended = at_server.folder / "ended"
    traps = f'trap "sleep 1; echo TERM >> {ended}; exit" TERM; trap "echo INT >> {ended}" INT'
    command = f"sh -c '{traps}; echo ready; while :; do sleep 0.1; done'"
    terminal = at_server.at_terminal("listening_worker.py", "--run", command)
    terminal.expect("ready")
    terminal.sendintr()
    terminal.expect("Not finished, so it goes back to the queue: task")
    terminal.expect("Stopped")
    assert ended.read_text() == "TERM\n"
    assert list(server.tasks) == [(b"task", True)]


@pytest.mark.parametrize("is_asked_again", [False, True])
def test_a_command_that_does_not_end_is_killed_after_five_seconds_or_a_second_ctrl_c(
    at_server: Scripts, server: Server, is_asked_again: bool
) -> None:
    server.put(b"task")
    command = "sh -c 'trap \"echo no\" TERM; set $(seq 300); echo pid $$; for _; do sleep 0.1; done'"
    worker = at_server.start("listening_worker.py", "--run", command)
    worker.shows("pid ")
    asked = time.monotonic()
    worker.send(signal.SIGINT)
    worker.shows("no\n")
    if is_asked_again:  # until it counts: within a fifth of a second it would be taken for the first
        eventually(lambda: worker.send(signal.SIGINT) or worker.process.poll() is not None, "it ends")
    worker.ends()
    assert (time.monotonic() - asked < 5) == is_asked_again
    (pid,) = re.findall(r"pid (\d+)", worker.out)
    assert not is_alive(int(pid))
    assert list(server.tasks) == [(b"task", True)]


def test_ctrl_c_while_a_command_starts_ends_it_too(
    at_server: Scripts, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, pids = subprocess.Popen.__init__, list[int]()

    def start_and_interrupt(self: subprocess.Popen[bytes], *arguments: Any, **named: Any) -> None:
        start(self, *arguments, **named)
        pids.append(self.pid)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess.Popen, "__init__", start_and_interrupt)
    server.put(b"task")
    with pytest.raises(KeyboardInterrupt):
        work(at_server, running("sleep 1000"), max_tasks=1)
    assert not is_alive(pids[0])
    assert list(server.tasks) == [(b"task", True)]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "place" / f"pro{HARM}gram"
    file.parent.mkdir()
    write_program(file, "true")
    return file


BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "gone": (lambda file: file.unlink(), "", "No such file or directory"),
    "not executable": (lambda file: file.chmod(0o644), "", "Permission denied"),
    "no program": (lambda file: file.write_text("nonsense"), "", "Exec format error"),
    "no interpreter": (lambda file: file.write_text("#!/no/such/interpreter\n"), "", "No such file or directory"),
    "too long whatever the task is": (lambda _: None, "x" * 200_000, "Argument list too long"),
}


@pytest.mark.parametrize(("spoil", "more", "why"), BROKEN.values(), ids=BROKEN)
def test_a_command_that_can_not_be_started_is_not_the_tasks_fault(
    at_server: Scripts, server: Server, program: Path, spoil: Callable[[Path], object], more: str, why: str
) -> None:
    perform = running(f"{program} {{}} {more}")
    spoil(program)
    server.put(b"one", b"two")
    with pytest.raises(WorkerError, match=rf"^--run: \S+/pro{re.escape(SHOWN)}gram can't be started: {why}[.]$"):
        work(at_server, perform, max_tasks=2)
    assert [event["event"] for event in at_server.events()] == ["received", "requeued"]
    assert len(server.got("Basic.Nack")) == 1
    assert server.got("Basic.Reject") == server.got("Basic.Ack") == []
    assert [task for task, _ in server.tasks] == [b"one", b"two"]


def test_a_process_that_a_command_leaves_behind_is_not_waited_for(
    at_server: Scripts, server: Server, program: Path
) -> None:
    """It has the command's standard input, with a task that no pipe would take whole."""
    server.put(b"x" * 200_000)
    left = at_server.folder / "left"
    # The shell gives a process in the background another standard input, if it is not told so.
    write_program(program, f"exec 3<&0\nsleep 60 <&3 >/dev/null 2>&1 &\necho $! > {left}")
    try:
        assert " [x] Done." in work(at_server, running(str(program)))
        assert Path(f"/proc/{int(left.read_text())}/cmdline").read_bytes(), "it has ended"
        assert server.got("Basic.Reject") == []
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.kill(int(left.read_text()), signal.SIGKILL)
