"""Windows, as far as Linux can show it: the scripts on a Python that lacks what it lacks there, and says what it says.

The real console, its keys and its processes are not tested here.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import installation
import pytest
from harness import PROJECT, Run, Scripts, copy_project, eventually
from machine import clean_environment
from relay import Relay

from task_queue.errors import DOCKER

# Put into force before anything else is imported. Ctrl+Break is SIGUSR1 here.
SHIM = """
import os, select, signal, socket, stat, subprocess, sys, time, types

for module, names in (
    (os, ("killpg", "fork", "register_at_fork", "setsid")),
    (signal, ("SIGHUP", "SIGCHLD", "SIGURG", "pthread_kill", "pthread_sigmask")),
    (select, ("epoll", "poll")),
):
    for name in names:
        delattr(module, name)
for name in ("fcntl", "readline", "termios", "resource"):
    sys.modules[name] = None
signal.SIGBREAK = signal.CTRL_BREAK_EVENT = signal.SIGUSR1

set_blocking, select_, monotonic = os.set_blocking, select.select, time.monotonic

def for_pipes_only(descriptor, blocking):  # from Python 3.12 on; before, there is none
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        raise OSError(22, "Invalid argument")
    set_blocking(descriptor, blocking)

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

os.set_blocking, select.select, socket.socketpair = for_pipes_only, for_sockets_only, socketpair
time.monotonic = lambda: monotonic() // 0.0156 * 0.0156
subprocess.Popen.send_signal = send_signal
sys.modules["task_queue.system"] = types.SimpleNamespace(WINDOWS=True)
"""
LIMITS_COMMANDS = """
execute = subprocess.Popen._execute_child

def execute_if_short(self, arguments, *more):
    if len(subprocess.list2cmdline(map(os.fsdecode, arguments))) > 32_766:
        raise FileNotFoundError(2, "The filename or extension is too long")
    execute(self, arguments, *more)

subprocess.Popen._execute_child = execute_if_short
"""
TASKKILL = '#!/bin/sh\nkill -9 "-$4"\n'  # /T /F /PID NUMBER


def write_shim(folder: Path) -> dict[str, str]:
    """Return the environment of a Python as on Windows."""
    (folder / "shim").mkdir()
    (folder / "shim" / "sitecustomize.py").write_text(SHIM)
    (folder / "shim" / "taskkill").write_text(TASKKILL)
    (folder / "shim" / "taskkill").chmod(0o755)
    path = f"{folder / 'shim'}:{os.environ['PATH']}"
    return {"PYTHONPATH": str(folder / "shim"), "PATH": path, "PYTHONIOENCODING": "cp1252"}


@pytest.fixture
def windows(scripts: Scripts) -> Scripts:
    """The scripts, on a Python as on Windows."""
    scripts.environment.update(write_shim(scripts.folder))
    return scripts


# ---- Tasks come in


@pytest.mark.parametrize("name", ["tasks.txt", "tasks.csv"])
def test_a_file_is_read(windows: Scripts, name: str) -> None:
    (windows.folder / name).write_bytes(b"one\r\ntwo\r\n")
    assert "Sent 2 tasks" in windows.emit("--file", name).out
    assert windows.broker.bodies(windows.queue) == ["one", "two"]


def test_tasks_are_read_from_a_pipe_and_from_a_file_as_standard_input(windows: Scripts) -> None:
    emitter = windows.emitter(stdin=(pipe := os.pipe())[0])
    os.close(pipe[0])
    os.write(pipe[1], b"one\n")
    os.close(pipe[1])
    assert "Sent 1 task" in emitter.ends().out
    assert "Sent 2 tasks" in windows.emit(stdin=b"two\nthree\n").out


def test_the_prompt_takes_tasks_until_the_end_of_input(windows: Scripts) -> None:
    terminal = windows.at_terminal("emitter_of_tasks.py")
    terminal.expect_exact("y or n: ")
    terminal.sendline("n")
    terminal.expect_exact("Enter new task: ")
    terminal.sendline("one")
    terminal.expect_exact(" [x] Sent one")
    terminal.expect_exact("Enter new task: ")
    terminal.send("\x16\x04\r")  # Ctrl+D as a character, as it comes there
    eventually(lambda: not terminal.isalive(), "it ends")
    assert terminal.exitstatus == 0
    assert windows.broker.bodies(windows.queue) == ["one"]
    assert "\x1b" not in terminal.before


def test_ctrl_d_ends_the_question_too(windows: Scripts) -> None:
    terminal = windows.at_terminal("emitter_of_tasks.py")
    terminal.expect_exact("y or n: ")
    terminal.send("\x16\x04\r")
    eventually(lambda: not terminal.isalive(), "it ends")
    assert terminal.exitstatus == 0


def test_what_another_thread_has_to_say_is_shown_once_above_the_question(windows: Scripts, relay: Relay) -> None:
    terminal = windows.at_terminal("emitter_of_tasks.py", "--no-admin", AMQP_URL=relay.url)
    terminal.expect_exact("Enter new task: ")
    relay.cut()
    terminal.expect_exact("was lost")
    terminal.expect_exact("Connected again.\r\nEnter new task: ")
    terminal.sendline("task")
    terminal.expect_exact(" [x] Sent task")
    assert "Enter new task" not in terminal.before


def test_progress_needs_no_escape_sequences(windows: Scripts) -> None:
    (windows.folder / "many.txt").write_text("task\n" * 5000)
    terminal = windows.at_terminal("emitter_of_tasks.py", "--file", "many.txt")
    terminal.expect(r"Sent 5,000 tasks in [\d.]+ s \([\d,]+/s\)\. *\r\n")
    assert "\x1b" not in terminal.before + terminal.after


# ---- Work


def test_a_burst_does_what_is_there(windows: Scripts) -> None:
    windows.emit(stdin=b"one.\ntwo\n")
    worker = windows.work("--log-file", windows.log)
    assert worker.lines.count(" [x] Done.") == 2
    assert len(windows.events("done")) == 2


def test_ctrl_c_ends_a_worker_that_waits(windows: Scripts) -> None:
    worker = windows.worker()
    worker.send(signal.SIGINT)
    worker.ends(within=5)
    assert worker.lines[-1] == " [*] Stopped."


def test_ctrl_c_ends_a_command_with_its_children(windows: Scripts) -> None:
    windows.emit("task")
    worker = windows.worker("--run", "sh -c 'sh -c \"echo $$ > child; exec sleep 60\"; exit 1'")
    eventually(lambda: (windows.folder / "child").exists() and (windows.folder / "child").read_text(), "it runs")
    worker.send(signal.SIGINT)
    worker.ends(within=5)
    assert "Not finished, so it goes back to the queue: task" in worker.out
    child = int((windows.folder / "child").read_text())
    eventually(lambda: not Path(f"/proc/{child}").exists(), "its child is killed")


def test_ctrl_break_lets_a_worker_finish_its_task(windows: Scripts) -> None:
    windows.emit("task..")
    worker = windows.worker()
    worker.shows("1 of 2")
    worker.send(signal.SIGUSR1)
    worker.ends()
    assert worker.lines[-2:] == [" [x] Done.", " [*] Stopped."]


@pytest.mark.parametrize("name", ["work.bat", "work.CMD"])
def test_a_batch_file_gets_no_task_as_an_argument(windows: Scripts, name: str) -> None:
    """cmd.exe would run what is in it."""
    batch = windows.folder / "shim" / name
    batch.write_text("#!/bin/sh\ncat\n")
    batch.chmod(0o755)
    run = windows.start("listening_worker.py", "--run", f"{name} {{}}").ends(2)
    assert run.err == f" [!] --run: {batch} is a batch file, and can't get the task as {{}} safely.\n"
    windows.emit("task")
    assert "task [x] Done." in windows.work("--run", name).out  # on its standard input it is harmless


def test_backslashes_belong_to_the_name_of_a_program(windows: Scripts) -> None:
    run = windows.start("listening_worker.py", "--run", r"C:\tools\resize.exe '{}'").ends(2)
    assert r"there is no command C:\\tools\\resize.exe here" in run.err.replace("\\", "\\\\")


def test_the_command_for_a_task_that_readme_shows(windows: Scripts) -> None:
    command = re.search(r"`--run (\"\.venv.+?\")`", readme := (PROJECT / "README.md").read_text())
    assert command and ".venv\\Scripts\\python.exe " in command[1], readme
    python = windows.folder / "shim" / ".venv\\Scripts\\python.exe"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    windows.emit("größe")
    said = windows.work("--run", command[1].strip('"')).out_file.read_bytes()
    assert "größe\n [x] Done.\n".encode() in said


def test_a_command_that_would_be_too_long_fails_the_task_and_not_the_worker(windows: Scripts) -> None:
    """Windows calls it a missing file, which would end each worker in turn."""
    with (windows.folder / "shim" / "sitecustomize.py").open("a") as shim:
        shim.write(LIMITS_COMMANDS)
    windows.emit(stdin=b'"' * 17_000 + b"\n")  # each becomes two characters
    worker = windows.start("listening_worker.py", "--max-tasks", 1, "--run", "echo {}").ends()
    assert "Failed (try 1 of 21): the task is too long for an argument of a command (17,000 bytes)" in worker.out


def test_a_task_may_print_what_standard_output_can_not_encode(windows: Scripts) -> None:
    windows.emit(stdin="日本".encode())
    program = "from listening_worker import listen\nlisten(lambda task: print(task.text), burst=True)\n"
    worker = windows.program(program, PYTHONIOENCODING="cp1252").ends()
    assert worker.lines[2:4] == [r"\u65e5\u672c", " [x] Done."]


def test_a_task_that_is_no_text_is_no_argument(windows: Scripts) -> None:
    windows.emit("first")
    windows.broker.publish(windows.queue, b"nul\0")
    worker = windows.start("listening_worker.py", "--max-tasks", 2, "--run", "echo {}").ends()
    assert "Failed (try 1 of 21): the task has a NUL character" in worker.out


# ---- Words


def test_what_the_console_can_not_show_is_escaped(windows: Scripts) -> None:
    windows.emit(stdin="größe 日本\n".encode())
    assert r" [x] Received größe \u65e5\u672c" in windows.work().out_file.read_text("cp1252")


def test_messages_hold_commands_that_can_be_typed_there(windows: Scripts) -> None:
    refused = windows.emit("task", "--url", "amqp://localhost:1", status=1)
    assert f"Start one with:  {DOCKER}  (the next time: docker start rabbitmq)" in refused.err
    vhost = windows.emit("task", "--url", windows.broker.url.replace("%2F", "it's"), status=1)
    assert "rabbitmqctl add_vhost NAME" in vhost.err
    file = windows.folder / "tasks.csv"
    file.write_bytes("größe\n".encode("utf-16"))
    assert 'Save it as text in UTF-8 (a spreadsheet as "CSV UTF-8")' in windows.emit("--file", file, status=1).err


def test_a_missing_pika_is_said_with_commands_for_windows(tmp_path: Path) -> None:
    shim = write_shim(tmp_path)
    environment = {**clean_environment(), **shim, "PYTHONPATH": f"{shim['PYTHONPATH']}:{PROJECT}"}
    command = [sys.executable, "-S", "-c", "import sitecustomize, task_queue"]  # -S: without pika, and without site
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "By hand:\npy -m venv .venv\n.venv/Scripts/python -m pip install -r requirements.txt\n" in run.stderr


def test_standard_input_that_is_a_terminal_is_told_with_the_key_that_ends_it(windows: Scripts) -> None:
    terminal = windows.at_terminal("emitter_of_tasks.py", "--file", "-")
    terminal.expect_exact("Tasks are read from standard input, one per line. Ctrl+Z, then Enter, ends them.")
    terminal.sendeof()
    eventually(lambda: not terminal.isalive(), "it ends")


# ---- The tools


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project whose tools and virtual environment are as on Windows."""
    target = tmp_path / "copy"
    copy_project(target)
    tool = target / "tools" / "machine.py"
    assert 'WINDOWS = os.name == "nt"\n' in tool.read_text()
    tool.write_text(tool.read_text().replace('WINDOWS = os.name == "nt"\n', "WINDOWS = True\n"))
    (target / ".venv").unlink()
    (target / ".venv" / "Scripts").mkdir(parents=True)
    (target / ".venv" / "Scripts" / "python.exe").symlink_to(Path(sys.executable).resolve())
    (target / ".venv" / "lib").symlink_to(Path(sys.prefix) / "lib")
    for file in [*(PROJECT / ".venv").glob("installed-*"), Path(sys.prefix) / "pyvenv.cfg"]:
        shutil.copy(file, target / ".venv")
    return target


def run_tool(copy: Path, *arguments: str, **environment: str) -> Run:
    shim = write_shim(copy)
    command = [str(Path(sys.executable).resolve()), str(copy / "tools" / arguments[0]), *arguments[1:]]
    return Run(command, copy, {**clean_environment(), **shim, **environment})


def test_the_demo_shows_its_table(copy: Path, scripts: Scripts) -> None:
    (copy / "two tasks.txt").write_text("one.\ntwo\n")
    demo = run_tool(copy, "demo.py", "--file", "two tasks.txt", AMQP_URL=scripts.broker.url).ends()
    assert demo.err == ""
    assert demo.out.count(" [*] Stopped.") == 2
    assert demo.lines[-1] == "All 2 tasks were sent, received and done exactly once. Nothing is left in the queue."


@pytest.mark.parametrize(
    ("tool", "words"),
    [("rabbitmq.py", installation.ON_WINDOWS), ("test.py", "On Windows, run this in WSL:  python3 tools/test.py")],
)
def test_a_tool_that_can_not_work_there_says_what_does(copy: Path, tool: str, words: str) -> None:
    text = (copy / "tools" / "rabbitmq.py").read_text()
    (copy / "tools" / "rabbitmq.py").write_text(text.replace("MANAGEMENT_PORT = 5672, 15672", "MANAGEMENT_PORT = 1, 1"))
    run = run_tool(copy, tool).ends(1)
    assert words in run.err
    assert DOCKER in installation.ON_WINDOWS
