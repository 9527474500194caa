"""Whatever state a script is started in: signals that are ignored or blocked, descriptors that are closed."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest
from harness import Run, Scripts, eventually
from scripted_server import Server

IN_PYTHON = "import os, signal, sys; {}; os.execv(sys.argv[1], sys.argv[1:])"
BLOCKED = IN_PYTHON.format("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))")
OWN_WORKER = (
    "import os, subprocess, sys\n"
    "from listening_worker import listen\n"
    "def perform(task):\n"
    "    {}\n"
    "if __name__ == '__main__':\n"
    "    listen(perform, max_tasks=1)\n"
)


def start_in(scripts: Scripts, shell: str, *command: str) -> Run:
    """Start a command by a shell that does something to itself before."""
    return scripts.start_command(["bash", "-c", f'{shell}; exec "$@"', "-", *command])


def own_worker(scripts: Scripts, work: str) -> list[str]:
    """Return the command of a user's own worker."""
    program = scripts.folder / "work.py"
    program.write_text(OWN_WORKER.format(work))
    return scripts.command(str(program))


def worker(scripts: Scripts, *arguments: object) -> list[str]:
    return scripts.command("listening_worker.py", *arguments)


def test_a_command_that_fails_is_no_success_where_nobody_can_wait_for_children(
    at_server: Scripts, server: Server
) -> None:
    server.put(b"task")
    run = start_in(at_server, 'trap "" CHLD', *worker(at_server, "--max-tasks", 1, "--run", "false")).ends()
    assert " [!] Failed (try 1 of 21): false ended with exit status 1" in run.out
    assert server.got("Basic.Ack") == []


def test_nor_is_it_in_a_users_own_worker(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    program = own_worker(at_server, "subprocess.run(['false'], check=True)")
    run = start_in(at_server, 'trap "" CHLD', *program).ends()
    assert any(line.startswith(" [!] Failed (try 1 of 21): CalledProcessError") for line in run.lines)
    assert server.got("Basic.Ack") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_worker_that_was_started_with_signals_blocked_ends_when_asked(
    at_server: Scripts, server: Server, number: signal.Signals
) -> None:
    run = at_server.start_command([sys.executable, "-c", BLOCKED, *worker(at_server)])
    server.gets("Basic.Consume")
    run.send(number)
    run.ends()


def test_a_command_hears_the_signals_that_its_worker_was_started_without(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    kill = "bash -c 'trap \"exit 7\" TERM; kill $$; exit 1'"
    run = at_server.start_command([sys.executable, "-c", BLOCKED, *worker(at_server, "--max-tasks", 1, "--run", kill)])
    assert " [!] Failed (try 1 of 21): bash ended with exit status 7" in run.ends().out


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_what_is_printed_does_not_go_into_a_socket_that_has_the_number_of_standard_output(
    at_server: Scripts, server: Server, closed: str
) -> None:
    server.put(b"task")
    noisy = "sh -c 'echo noise && echo noise >&2'"
    start_in(
        at_server, f"exec {closed}", *worker(at_server, "--max-tasks", 1, "--run", noisy, "--log-file", at_server.log)
    ).ends()
    assert [event["event"] for event in at_server.events()] == ["received", "done"]
    server.gets("Basic.Ack")
    assert server.errors == []


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-"])
def test_an_emitter_with_closed_descriptors_sends_its_task(at_server: Scripts, server: Server, closed: str) -> None:
    start_in(at_server, f"exec {closed}", *at_server.command("emitter_of_tasks.py", "task")).ends()
    (published,) = server.got("Basic.Publish")
    assert published.body == b"task"
    assert server.errors == []


def test_a_users_own_worker_with_closed_descriptors_prints_into_no_socket(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    program = own_worker(at_server, "os.write(1, b'noise'); os.write(2, b'noise')")
    start_in(at_server, "exec <&- >&- 2>&-", *program).ends()
    server.gets("Basic.Ack")
    assert server.errors == []


def test_the_file_mode_mask_stays_as_it_was(at_server: Scripts, server: Server) -> None:
    server.put(b"task")
    touch = worker(at_server, "--max-tasks", 1, "--run", "touch made", "--log-file", at_server.log)
    start_in(at_server, "umask 027", *touch).ends()
    assert (at_server.folder / "made").stat().st_mode & 0o777 == 0o640
    assert at_server.log.stat().st_mode & 0o777 == 0o640


def test_lines_wait_for_a_pipe_that_does_not_wait_by_itself(at_server: Scripts, server: Server) -> None:
    """Some programs make the pipes that they share with others non-blocking, and every line must come all the same."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    server.put(*(b"x" * 400 for _ in range(500)))
    run = at_server.start("listening_worker.py", "--max-tasks", 500, stdout=writer)
    os.close(writer)
    eventually(lambda: len(server.got("Basic.Ack")) > 50, "it works")
    pieces: list[bytes] = []
    thread = threading.Thread(target=lambda: [*iter(lambda: pieces.append(os.read(reader, 65536)) or pieces[-1], b"")])
    thread.start()
    run.ends()
    thread.join()
    os.close(reader)
    assert b"".join(pieces).count(b" [x] Done.\n") == 500
