"""Windows, as far as Linux can show it: the scripts on a Python that lacks what it lacks there, and says what it says.

The real console, its keys and its processes are not tested here.
"""

import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import installation
import machine
import pexpect
import pytest
from harness import PROJECT, Run, Scripts, copy_project, eventually, write_program
from in_process import put
from machine import clean_environment
from relay import Relay

from task_queue.rabbitmq.error_messages import DOCKER

# Put into force before anything else is imported. Ctrl+Break is SIGUSR1 here.
SHIM = """
import os, select, signal, socket, stat, subprocess, sys, time
from importlib.machinery import SourceFileLoader

for module, names in (
    (os, ("killpg", "fork", "register_at_fork", "setsid", "set_blocking")),
    (signal, ("SIGHUP", "SIGCHLD", "SIGURG", "pthread_kill", "pthread_sigmask")),
    (select, ("epoll", "poll")),
):
    for name in names:
        delattr(module, name)
for name in ("fcntl", "readline", "termios", "resource"):
    sys.modules[name] = None
signal.SIGBREAK = signal.CTRL_BREAK_EVENT = signal.SIGUSR1

select_, monotonic = select.select, time.monotonic

def for_sockets_only(*lists):
    if not any(lists[:3]):
        raise OSError(10022, "An invalid argument was supplied")
    for each in (descriptor for descriptors in lists[:3] for descriptor in descriptors):
        if not stat.S_ISSOCK(os.fstat(each if isinstance(each, int) else each.fileno()).st_mode):
            raise OSError(10038, "An operation was attempted on something that is not a socket")
    return select_(*lists)

def socketpair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]

def send_signal(process, number):
    if number not in (signal.SIGTERM, signal.CTRL_BREAK_EVENT):
        raise ValueError(f"Unsupported signal: {number}")
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL if number == signal.SIGTERM else number)
    if number == signal.SIGTERM and process.wait() == -signal.SIGKILL:
        process.returncode = 1  # TerminateProcess

select.select, socket.socketpair = for_sockets_only, socketpair
time.monotonic = lambda: monotonic() // 0.0156 * 0.0156
subprocess.Popen.send_signal = send_signal

get_code, execute = SourceFileLoader.get_code, subprocess.Popen._execute_child

def code_for_windows(loader, name):
    if name.partition(".")[0] not in ("task_queue", "machine"):
        return get_code(loader, name)
    return compile(loader.get_source(name).replace('os.name == "nt"', "True"), loader.path, "exec")

def execute_if_short(self, arguments, *more):
    if len(subprocess.list2cmdline(map(os.fsdecode, arguments))) > 32_766:
        raise FileNotFoundError(2, "The filename or extension is too long")
    execute(self, arguments, *more)

SourceFileLoader.get_code, subprocess.Popen._execute_child = code_for_windows, execute_if_short
"""


def write_shim(folder: Path) -> dict[str, str]:
    """Return the environment of a Python as on Windows."""
    shim = folder / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(SHIM)
    write_program(shim / "taskkill", 'kill -9 "-$4"')  # /T /F /PID NUMBER
    path = f"{shim}:{os.environ['PATH']}"
    return {"PYTHONPATH": f"{shim}:{PROJECT}", "PATH": path, "PYTHONIOENCODING": "cp1252"}


@pytest.fixture
def windows(scripts: Scripts) -> Scripts:
    """The scripts, on a Python as on Windows."""
    scripts.environment.update(write_shim(scripts.folder))
    return scripts


def ends(terminal: pexpect.spawn) -> None:
    eventually(lambda: not terminal.isalive(), "it ends")
    assert terminal.exitstatus == 0


def test_a_file_or_a_pipe_is_read(windows: Scripts) -> None:
    (windows.folder / "tasks.csv").write_bytes(b"one\r\ntwo\r\n")
    assert "Sent 2 tasks" in windows.emit("--file", "tasks.csv").out
    with subprocess.Popen(["echo", "three"], stdout=subprocess.PIPE) as pipe:
        assert "Sent 1 task" in windows.emitter(stdin=pipe.stdout).ends().out
    assert windows.broker.bodies(windows.queue) == ["one", "two", "three"]


def test_the_prompt_takes_tasks_until_the_end_of_input(windows: Scripts, relay: Relay) -> None:
    """What another thread has to say is shown once, above the question."""
    terminal = windows.at_terminal("emitter_of_tasks.py", AMQP_URL=relay.url)
    terminal.expect_exact("y or n: ")
    terminal.sendline("n")
    terminal.expect_exact("Enter new task: ")
    relay.cut()
    terminal.expect_exact("was lost")
    terminal.expect_exact("Connected again.\r\nEnter new task: ")
    terminal.sendline("one")
    terminal.expect_exact(" [x] Sent one")
    assert "Enter new task" not in terminal.before
    terminal.expect_exact("Enter new task: ")
    terminal.send("\x16\x04\r")  # Ctrl+D as a character, as it comes there
    ends(terminal)
    assert windows.broker.bodies(windows.queue) == ["one"]
    assert "\x1b" not in terminal.before


def test_standard_input_that_is_a_terminal_is_told_with_the_key_that_ends_it(windows: Scripts) -> None:
    """And progress needs no escape sequences."""
    terminal = windows.at_terminal("emitter_of_tasks.py", "--file", "-")
    terminal.expect_exact("Tasks are read from standard input, one per line. Ctrl+Z, then Enter, ends them.")
    for _ in range(50):
        terminal.sendline("task")
    terminal.sendeof()
    terminal.expect(r"Sent 50 tasks in [\d.]+ s \([\d,]+/s\)\. *\r\n")
    assert "\x1b" not in terminal.before + terminal.after
    ends(terminal)


def test_ctrl_c_ends_a_worker_that_waits(windows: Scripts) -> None:
    worker = windows.worker()
    worker.send(signal.SIGINT)
    assert worker.ends(within=5).lines[-1] == " [*] Stopped."


def test_ctrl_c_ends_a_command_with_its_children(windows: Scripts) -> None:
    windows.emit("task")
    worker = windows.worker("--run", "sh -c 'sh -c \"echo $$ > child; exec sleep 60\"; exit 1'")
    file = windows.folder / "child"
    child = eventually(lambda: file.exists() and file.read_text().strip(), "it runs")
    worker.send(signal.SIGINT)
    assert "Not finished, so it goes back to the queue: task" in worker.ends(within=5).out
    eventually(lambda: not Path(f"/proc/{child}").exists(), "its child is killed")


def test_ctrl_break_lets_a_worker_finish_its_task(windows: Scripts) -> None:
    windows.emit("task..")
    worker = windows.worker("--log-file", windows.log)
    worker.shows("1 of 2")
    worker.send(signal.SIGUSR1)
    assert worker.ends().lines[-2:] == [" [x] Done.", " [*] Stopped."]
    assert [record["event"] for record in windows.events()] == ["received", "done"]


def test_a_batch_file_gets_no_task_as_an_argument(windows: Scripts) -> None:
    """cmd.exe would run what is in it. On its standard input it is harmless."""
    write_program(batch := windows.folder / "shim" / "work.CMD", "cat")
    run = windows.start("listening_worker.py", "--run", "work.CMD {}").ends(2)
    assert run.err == f" [!] --run: {batch} is a batch file, and can't get the task as {{}} safely.\n"
    windows.emit("task")
    assert "task [x] Done." in windows.work("--run", "work.CMD").out


def test_the_command_for_a_task_that_readme_shows(windows: Scripts) -> None:
    """Backslashes belong to the name of a program."""
    command = re.search(r"`--run (\"\.venv.+?\")`", readme := (PROJECT / "README.md").read_text())
    assert command and ".venv\\Scripts\\python.exe " in command[1], readme
    write_program(windows.folder / "shim" / ".venv\\Scripts\\python.exe", f'exec {sys.executable} "$@"')
    windows.emit("größe")
    said = windows.work("--run", command[1].strip('"')).out_file.read_bytes()
    assert "größe\n [x] Done.\n".encode() in said


def test_a_task_that_can_not_be_an_argument_fails_and_not_the_worker(windows: Scripts) -> None:
    """Each " becomes two characters; Windows calls it a missing file, which would end each worker in turn."""
    put(windows, b'"' * 17_000)
    worker = windows.start("listening_worker.py", "--max-tasks", 1, "--run", "echo {}").ends()
    why = "the task is too long for an argument of a command (17,000 bytes)"
    assert f"Failed (try 1 of at most 21): {why}" in worker.out


def test_what_the_console_can_not_show_is_escaped(windows: Scripts) -> None:
    """Whether it is ours, or a task prints it."""
    windows.emit(stdin="größe 日本\n".encode())
    program = "from listening_worker import listen\nlisten(lambda task: print(task.text), burst=True)\n"
    worker = windows.start_program(program, windows.environment).ends()
    shown = r"größe \u65e5\u672c"
    lines = worker.out_file.read_text("cp1252").splitlines()
    assert lines[1:4] == [f" [x] Received {shown}", shown, " [x] Done."]


def test_messages_hold_commands_that_can_be_typed_there(windows: Scripts) -> None:
    command = [sys.executable, "-S", "-c", "import sitecustomize, task_queue"]  # -S: without pika, and without site
    run = windows.start_command(command).ends(1)
    assert "By hand:\npy -m venv .venv\n.venv/Scripts/python -m pip install -r requirements.txt\n" in run.err
    run = windows.start_command(
        [sys.executable, "-c", "import task_queue.rabbitmq.error_messages as it; print(it.START)"]
    )
    assert run.ends().out == f"{DOCKER}  (the next time: docker start rabbitmq)\n"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project whose virtual environment is as on Windows."""
    target = tmp_path / "copy"
    copy_project(target)
    (venv := target / ".venv").unlink()
    (venv / "Scripts").mkdir(parents=True)
    (venv / "Scripts" / "python.exe").symlink_to(Path(sys.executable).resolve())
    for each in Path(sys.prefix).iterdir():
        (venv / each.name).symlink_to(each)
    return target


def test_the_demo_shows_its_table(copy: Path, scripts: Scripts) -> None:
    (copy / "two tasks.txt").write_text("one.\ntwo\n")
    command = [str(Path(sys.executable).resolve()), "tools/demo.py", "--file", "two tasks.txt"]
    demo = Run(command, copy, {**clean_environment(), **write_shim(copy), "AMQP_URL": scripts.broker.url}).ends()
    assert demo.err == ""
    assert demo.out.count(" [*] Stopped.") == 2
    assert demo.lines[-1] == "All 2 tasks were sent, received and done exactly once. Nothing is left in the queue."


def test_a_tool_that_can_not_work_there_says_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "WINDOWS", True)
    monkeypatch.setattr(sys, "argv", ["tools/test.py"])
    with pytest.raises(machine.SetupError, match="On Windows, run this in WSL"):
        runpy.run_path(str(PROJECT / "tools" / "test.py"))["main"]()
    with pytest.raises(machine.SetupError, match=DOCKER):
        installation.ensure_server()
