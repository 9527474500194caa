"""The two commands and the private RabbitMQ, run as a person runs them, in copies of the project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import installation
import pytest
from debian_root import CHOSEN
from harness import Broker, Run, copy_project, eventually
from machine import clean_environment, is_root
from rabbitmq import free_port, is_rabbitmq

RUNS: list[Run] = []
SLOW = 90.0  # seconds, for what takes ten on a machine with nothing else to do


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """A copy of the project, with the virtual environment of this one, which takes long to make."""
    target = tmp_path / "copy"
    copy_project(target)
    yield target
    left = [run for run in RUNS if run.process.poll() is None]
    for run in left:
        run.process.kill()
        run.process.wait()
    RUNS.clear()
    assert left == []
    assert processes_of(target) == []


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the processes that run on something in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
        except OSError:
            continue
        if str(folder) in "".join(texts):
            found.append(texts[0].replace("\0", " "))
    return found


def run_tool(copy: Path, *arguments: str, **environment: str) -> Run:
    python = str(copy / ".venv" / "bin" / "python")
    RUNS.append(
        Run([python, str(copy / "tools" / arguments[0]), *arguments[1:]], copy, {**clean_environment(), **environment})
    )
    return RUNS[-1]


def demo_queues(broker: Broker) -> list[str]:
    return [queue["name"] for queue in broker.api("GET", "queues") if queue["name"].startswith("demo-")]


def test_the_demo_shows_who_did_what_and_leaves_nothing(copy: Path, broker: Broker) -> None:
    tasks = copy / "tasks.txt"
    tasks.write_text("one.\ntwo...\nthree.\nfour.\n")
    demo = run_tool(copy, "demo.py", "--workers", "2", "--file", str(tasks), AMQP_URL=broker.url).ends(within=SLOW)
    assert demo.err == ""
    assert re.search(r"^RabbitMQ \d+\.\d+\.\d+ is up\.$", demo.out, re.MULTILINE)
    for name in ("worker-1", "worker-2"):
        assert f"{name}  |  [*] Waiting for tasks in queue demo-" in demo.out
        assert re.search(rf"^{name}  \|     [1-3] \|   [1-5]\.\d s \| \d", demo.out, re.MULTILINE)
        assert re.search(rf"^{name}  \| +\d=+", demo.out, re.MULTILINE)
    assert "emitter   |  [x] Sent two..." in demo.lines
    assert demo.lines[-1] == ("All 4 tasks were sent, received and done exactly once. Nothing is left in the queue.")
    assert demo_queues(broker) == []


def test_the_demo_ends_no_worker_that_can_not_hear_it_yet(copy: Path, broker: Broker) -> None:
    """One of them begins when the other has done everything."""
    worker = copy / "listening_worker.py"
    beginning = 'if __name__ == "__main__":\n    import gc\n'
    assert beginning in worker.read_text()
    slow = 'import sys\nimport time\n\ntime.sleep(3 * ("worker-2" in sys.argv))\n'
    worker.write_text(worker.read_text().replace(beginning, slow + beginning))
    (copy / "tasks.txt").write_text("one\n")
    demo = run_tool(copy, "demo.py", "--file", "tasks.txt", AMQP_URL=broker.url).ends(within=SLOW)
    assert "worker-2  |  [*] Stopped." in demo.lines


def test_ctrl_c_in_the_demo_leaves_nothing(copy: Path, broker: Broker) -> None:
    demo = run_tool(copy, "demo.py", AMQP_URL=broker.url)
    demo.shows("1 of 7")
    demo.send(signal.SIGINT)
    demo.ends(130, SLOW)
    assert demo_queues(broker) == []


def test_the_demo_fails_when_one_of_its_scripts_does(copy: Path, broker: Broker) -> None:
    tasks = copy / "tasks.txt"
    tasks.write_bytes(b"one.\nGr\xf6\xdfe\n")
    demo = run_tool(copy, "demo.py", "--file", str(tasks), AMQP_URL=broker.url).ends(1, SLOW)
    assert "emitter   |  [!] Line 2 of" in demo.out
    assert "emitter ended with exit status 1." in demo.err
    assert demo_queues(broker) == []


def test_what_the_demo_can_not_start_with_is_said(
    broker: Broker, copy: Path, run_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("tools/demo.py", "--file", "no.csv") == 2
    assert run_here("tools/demo.py", "--workers", "0") == 2
    said = capsys.readouterr().err
    assert "--file: there is no file no.csv" in said
    assert "--workers: at least one" in said
    (copy / "empty.txt").touch()
    assert (
        "No task was sent." in run_tool(copy, "demo.py", "--file", "empty.txt", AMQP_URL=broker.url).ends(1, SLOW).err
    )
    demo = run_tool(copy, "demo.py", AMQP_URL="amqp://localhost:1").ends(1, SLOW)
    assert (demo.out + demo.err).count("Nothing listens at localhost:1") == 1


def set_usual_ports(copy: Path, amqp_port: int, management_port: int) -> None:
    """Have tools/rabbitmq.py of a copy take other ports for the usual ones, which may be in use here."""
    tool = copy / "tools" / "rabbitmq.py"
    usual = r"^AMQP_PORT, MANAGEMENT_PORT = \d+, \d+$"
    ports = f"AMQP_PORT, MANAGEMENT_PORT = {amqp_port}, {management_port}"
    text, number = re.subn(usual, ports, tool.read_text(), flags=re.MULTILINE)
    assert number == 1
    tool.write_text(text)


def script_in(copy: Path, url: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run one of a copy's scripts."""
    environment = {**os.environ, "AMQP_URL": url, "BROWSER": "true"}
    return subprocess.run([sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True)


def test_a_private_rabbitmq_serves_the_scripts_and_keeps_their_tasks(copy: Path, broker: Broker) -> None:
    """Started, stopped, started again beside another RabbitMQ: the task that was sent before is done after."""
    amqp_port, management_port = free_port(), free_port()
    set_usual_ports(copy, amqp_port, management_port)
    assert "No RabbitMQ of this folder is running." in run_tool(copy, "rabbitmq.py", "ctl", "list_queues").ends(1).err
    private = run_tool(copy, "rabbitmq.py")
    eventually((copy / ".rabbitmq" / "lock").exists, "it starts")  # and is up some seconds later
    assert "A RabbitMQ is running or starting on" in run_tool(copy, "rabbitmq.py", "--private").ends(1).err
    private.shows("Its queues are kept in .rabbitmq/.", within=SLOW)
    assert re.search(r"^RabbitMQ \d+\.\d+\.\d+ is up\.  Admin panel: http", private.out, re.MULTILINE)
    assert "In the other terminals" not in private.out
    with urllib.request.urlopen(f"http://localhost:{management_port}/") as panel:
        assert b"RabbitMQ Management" in panel.read()
    said = run_tool(copy, "rabbitmq.py").ends().out
    assert "A RabbitMQ already answers" in said
    assert "It is this folder's." in said
    sent = script_in(copy, f"amqp://localhost:{amqp_port}", "emitter_of_tasks.py", "hello.")
    assert "Sent hello." in sent.stdout
    private.send(signal.SIGKILL)  # what it runs has the data still
    private.ends(-signal.SIGKILL)
    assert "running or starting on" in run_tool(copy, "rabbitmq.py", "--private").ends(1).err
    said = run_tool(copy, "rabbitmq.py").ends().out
    (stop,) = re.findall("If its terminal is gone, stop it with:  python3 tools/(.*)", said)
    run_tool(copy, *stop.split()).ends(within=SLOW)
    assert not is_rabbitmq("localhost", amqp_port)
    eventually(lambda: processes_of(copy) == [], "nothing is left of it", within=SLOW)

    set_usual_ports(copy, broker.node.amqp_port, broker.node.management_port)
    private = run_tool(copy, "rabbitmq.py", "--private")
    private.shows("Its queues are kept in .rabbitmq/.", within=SLOW)
    (url,) = re.findall(r"was taken\. In the other terminals first:  export AMQP_URL='(.*)'", private.out)
    # What a script says that mends something works as it stands.
    refused = script_in(copy, url.replace("%2F", "school"), "emitter_of_tasks.py", "task").stderr
    (command,) = re.findall("on RabbitMQ's machine:  rabbitmqctl (.*) NAME", refused)
    assert run_tool(copy, "rabbitmq.py", "ctl", *shlex.split(command), "school").ends(0, SLOW).err == ""
    assert "school" in run_tool(copy, "rabbitmq.py", "ctl", "list_vhosts").ends(0, SLOW).lines
    run_tool(copy, "rabbitmq.py", "ctl", "no_such_command").ends(64, SLOW)
    done = script_in(copy, url, "listening_worker.py", "--burst", "--seconds-per-dot", "0")
    assert " [x] Received hello.\n     . 1 of 1\n [x] Done.\n" in done.stdout
    private.send(signal.SIGQUIT)  # Ctrl+\\, which the README teaches for a worker
    private.ends(within=SLOW)
    assert "Stopping RabbitMQ" in private.out


def test_a_release_of_rabbitmq_that_is_not_known_is_a_mistake_in_usage(copy: Path) -> None:
    test = run_tool(copy, "test.py", "--rabbitmq", "9.9").ends(2)
    assert "9.9" in test.err
    assert re.search(r"choose from '?4\.0'?, '?4\.3'?", test.err)
    assert (
        "TEST_RABBITMQ is one of 4.0, 4.3, and not 9.9." in run_tool(copy, "test.py", TEST_RABBITMQ="9.9").ends(1).err
    )


LINTERS = ["ruff", "ruff", "mypy", "mypy", "mypy"]


@pytest.mark.parametrize(
    ("arguments", "linters", "for_pytest", "release"),
    [
        ([], LINTERS, [], None),
        (["-x", "tests/test_core.py"], LINTERS, ["-x", "tests/test_core.py"], None),
        (["--rabbitmq", "4.3", "-x"], LINTERS, ["-x"], "4.3"),
        (["-k", "one or two", "--rabbitmq=4.0", "-v"], [], ["-k", "one or two", "-v"], "4.0"),
        (["-kone"], [], ["-kone"], None),
    ],
)
def test_what_is_not_for_the_tests_command_is_for_pytest_and_with_k_there_are_no_linters(
    monkeypatch: pytest.MonkeyPatch,
    run_here: Callable[..., int],
    arguments: list[str],
    linters: list[str],
    for_pytest: list[str],
    release: str | None,
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv(CHOSEN, "")
    monkeypatch.setattr(installation, "ensure_server", Path)
    monkeypatch.setattr(subprocess, "run", run)
    assert run_here("tools/test.py", *arguments) == 0
    assert [command[2] for command in ran] == [*linters, "pytest"]
    assert ran[-1] == [sys.executable, "-m", "pytest", *for_pytest]
    assert os.environ[CHOSEN] == (release or "")


@pytest.mark.parametrize("verbosity", [0, 1])
def test_with_v_each_lesson_tells_what_it_has_lost(pytestconfig: pytest.Config, verbosity: int) -> None:
    """As pytest's own reports have it, of which some are warnings."""
    said: list[str] = []
    report = SimpleNamespace(nodeid="tests/test_lessons.py::test_one_thing", user_properties=[("lesson", "3 lost")])
    other = SimpleNamespace(nodeid="tests/test_core.py::test_another", user_properties=[])
    reporter = SimpleNamespace(
        stats={"": [other], "passed": [report, other], "warnings": [SimpleNamespace()]},
        section=said.append,
        line=said.append,
    )
    config = SimpleNamespace(get_verbosity=lambda: verbosity)
    (conftest,) = (each for each in pytestconfig.pluginmanager.get_plugins() if hasattr(each, "own_broker"))
    conftest.pytest_terminal_summary(reporter, config)
    assert said == ["lessons", "3 lost: one thing"][: 2 * verbosity]


@pytest.mark.skipif(not is_root(), reason="a Debian root is root's")
@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([], "a mount namespace, which an ordinary container has not (docker run --privileged gives it one)."),
        (["unshare"], "and there is no apt-get here to tell a mirror."),
    ],
)
def test_what_a_debian_root_lacks_is_said_in_a_line(copy: Path, there: list[str], words: str) -> None:
    shutil.rmtree(copy / ".rabbitmq", ignore_errors=True)
    programs = copy / "programs"
    programs.mkdir()
    for name in there:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    test = run_tool(copy, "test.py", "--rabbitmq", "4.3", PATH=str(programs), TEST_RABBITMQ="").ends(1)
    (line,) = test.err.splitlines()
    assert line.startswith("RabbitMQ 4.3 ")
    assert line.endswith(words)
    assert test.out == ""
