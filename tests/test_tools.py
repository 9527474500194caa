"""The two commands and the private RabbitMQ, run as a person runs them, most of them in copies of the project."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import installation
import pytest
from debian_root import CHOSEN
from harness import Broker, Run, copy_project, eventually
from machine import clean_environment
from ports import free_port, is_rabbitmq
from private_node import Node, NodeError, ports_of

SLOW = 90.0  # seconds, for what takes ten on a machine with nothing else to do
LINTERS = ["ruff", "ruff", "mypy", "mypy", "mypy"]


class Copy:
    """A copy of the project, with the virtual environment of this one, which takes long to make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[Run] = []
        copy_project(folder)

    def run(self, tool: str, *arguments: str, **environment: str) -> Run:
        command = [str(self.folder / ".venv/bin/python"), str(self.folder / "tools" / tool), *arguments]
        self.runs.append(Run(command, self.folder, {**clean_environment(), **environment}))
        return self.runs[-1]

    def script(self, url: str, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "AMQP_URL": url, "BROWSER": "true"}
        command = (sys.executable, *command)
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def change(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert text.count(old) == 1
        (self.folder / file).write_text(text.replace(old, new))

    def processes(self) -> list[str]:
        """Return the command lines of the processes that work in it."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if os.readlink(process / "cwd").startswith(str(self.folder)):
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        return found


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    it = Copy(tmp_path / "copy")
    yield it
    left = it.processes()
    for run in it.runs:
        run.process.kill()
        run.process.wait()
    assert left == []


def demo_queues(broker: Broker) -> list[str]:
    return [queue["name"] for queue in broker.api("GET", "queues") if queue["name"].startswith("demo-")]


def test_the_demo_shows_who_did_what_and_leaves_nothing(copy: Copy, broker: Broker) -> None:
    (copy.folder / "tasks.txt").write_text("one.\ntwo...\nthree.\nfour.\n")
    demo = copy.run("demo.py", "--workers", "2", "--file", "tasks.txt", AMQP_URL=broker.url).ends(within=SLOW)
    assert demo.err == ""
    assert re.search(r"^RabbitMQ \d+\.\d+\.\d+ is up\.$", demo.out, re.MULTILINE)
    for name in ("worker-1", "worker-2"):
        assert f"{name}  |  [*] Waiting for tasks in queue demo-" in demo.out
        assert re.search(rf"^{name}  \|     [1-3] \|   [1-5]\.\d s \| \d", demo.out, re.MULTILINE)
        assert re.search(rf"^{name}  \| +\d=+", demo.out, re.MULTILINE)
    assert "emitter   |  [x] Sent two..." in demo.lines
    assert "Go on with README.md" in demo.lines[-3]
    assert demo.lines[-1] == "All 4 tasks were sent, received and done exactly once. Nothing is left in the queue."
    assert demo_queues(broker) == []


def test_ctrl_c_in_the_demo_leaves_nothing(copy: Copy, broker: Broker) -> None:
    demo = copy.run("demo.py", AMQP_URL=broker.url)
    demo.shows("1 of 7")
    demo.send(signal.SIGINT)
    demo.ends(130, SLOW)
    assert demo_queues(broker) == []


@pytest.mark.parametrize(
    ("tasks", "shown", "why"),
    [
        (b"one.\nGr\xf6\xdfe\n", "emitter   |  [!] Line 2 of", "emitter ended with exit status 1.\n"),
        (b"", "worker-2  |  [*] Stopped.", "No task was sent.\n"),
    ],
)
def test_the_demo_fails_when_one_of_its_scripts_does(
    copy: Copy, broker: Broker, tasks: bytes, shown: str, why: str
) -> None:
    """And ends no worker that can't hear it yet: one of them begins when the other has done everything."""
    beginning = 'if __name__ == "__main__":\n    import gc\n'
    slow = 'import sys\nimport time\n\ntime.sleep(3 * ("worker-2" in sys.argv))\n'
    copy.change("listening_worker.py", beginning, slow + beginning)
    (copy.folder / "tasks.txt").write_bytes(tasks)
    demo = copy.run("demo.py", "--file", "tasks.txt", AMQP_URL=broker.url).ends(1, SLOW)
    assert shown in demo.out
    assert demo.err == why
    assert demo_queues(broker) == []


def test_what_the_demo_can_not_start_with_is_said(copy: Copy) -> None:
    for url, words in ("amqp://localhost:1", "Nothing listens at localhost:1"), ("foo", "AMQP_URL is not a URL"):
        demo = copy.run("demo.py", AMQP_URL=url).ends(1, SLOW)
        assert (demo.out + demo.err).count(words) == 1


def test_a_private_rabbitmq_serves_the_scripts_and_keeps_their_tasks(copy: Copy, broker: Broker) -> None:
    """Started, stopped, started again beside another RabbitMQ: the task that was sent before is done after."""
    amqp_port, management_port = free_port(), free_port()  # the usual ones may be in use here
    usual = "AMQP_PORT, MANAGEMENT_PORT = "
    copy.change("tools/rabbitmq.py", f"{usual}5672, 15672", f"{usual}{amqp_port}, {management_port}")
    assert "No RabbitMQ of this folder is running." in copy.run("rabbitmq.py", "ctl", "list_queues").ends(1).err
    private = copy.run("rabbitmq.py")
    eventually(lambda: any(ports_of(copy.folder / ".rabbitmq")), "it starts")  # and is up some seconds later
    with pytest.raises(NodeError, match="A RabbitMQ is running or starting on"):
        Node(copy.folder / ".rabbitmq").start()
    private.shows("Its queues are kept in .rabbitmq/.", within=SLOW)
    assert re.search(rf"RabbitMQ [\d.]+ is up\.  Admin panel: http://localhost:{management_port} ", private.out)
    assert "Sent hello." in copy.script(f"amqp://localhost:{amqp_port}", "emitter_of_tasks.py", "hello.").stdout
    private.send(signal.SIGKILL)  # what it runs goes on
    private.ends(-signal.SIGKILL)
    assert any("epmd" in each for each in copy.processes())
    assert f"use that one, at amqp://localhost:{amqp_port}\n" in copy.run("rabbitmq.py", "--private").ends(1).err
    said = copy.run("rabbitmq.py").ends().out
    assert "A RabbitMQ already answers" in said
    (stop,) = re.findall("It is this folder's. If its terminal is gone, stop it with:  python3 tools/(.*)", said)
    copy.run(*stop.split()).ends(within=SLOW)
    assert not is_rabbitmq("localhost", amqp_port)
    eventually(lambda: copy.processes() == [], "nothing is left of it", within=SLOW)
    beside = f"{usual}{broker.node.amqp_port}, {broker.node.management_port}"
    copy.change("tools/rabbitmq.py", f"{usual}{amqp_port}, {management_port}", beside)
    private = copy.run("rabbitmq.py", "--private")
    private.shows("Its queues are kept in .rabbitmq/.", within=SLOW)
    (url,) = re.findall(r"was taken\. In the other terminals first:  export AMQP_URL='(.*)'", private.out)
    # What a script says that mends something works as it stands.
    refused = copy.script(url.replace("%2F", "school"), "emitter_of_tasks.py", "task").stderr
    (command,) = re.findall("on RabbitMQ's machine:  rabbitmqctl (.*) NAME", refused)
    assert copy.run("rabbitmq.py", "ctl", *shlex.split(command), "school").ends(0, SLOW).err == ""
    assert "school" in copy.run("rabbitmq.py", "ctl", "list_vhosts").ends(0, SLOW).lines
    done = copy.script(url, "listening_worker.py", "--burst", "--seconds-per-dot", "0")
    assert " [x] Received hello.\n     . 1 of 1\n [x] Done.\n" in done.stdout
    private.send(signal.SIGQUIT)  # Ctrl+\\, which the README teaches for a worker
    private.ends(within=SLOW)
    assert "Stopping RabbitMQ" in private.out
    eventually(lambda: copy.processes() == [], "Erlang's own helpers end, too")


@pytest.mark.parametrize(
    ("arguments", "linters", "for_pytest", "release"),
    [
        ([], LINTERS, [], ""),
        (["--rabbitmq", "4.3", "-x", "tests/test_core.py"], LINTERS, ["-x", "tests/test_core.py"], "4.3"),
        (["-k", "one or two", "--rabbitmq=4.0", "-v"], [], ["-k", "one or two", "-v"], "4.0"),
        (["-kone"], [], ["-kone"], ""),
    ],
)
def test_what_is_not_for_the_tests_command_is_for_pytest_and_with_k_there_are_no_linters(
    monkeypatch: pytest.MonkeyPatch,
    run_here: Callable[..., int],
    arguments: list[str],
    linters: list[str],
    for_pytest: list[str],
    release: str,
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
    assert os.environ[CHOSEN] == release
