"""A real RabbitMQ for the suite, and the scripts on queues of their own."""

import contextlib
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import in_turn
import machine
import pytest
import rabbitmq
from harness import PROJECT, Broker, Scripts, TlsNode, new_queue_name
from rabbitmq import Node
from relay import Relay
from scripted_server import Server
from shared_node import new_keeper, shared_node

KEEPER = pytest.StashKey[subprocess.Popen[bytes]]()


@pytest.hookimpl(trylast=True)  # when there is a folder for temporary files
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # which the processes of pytest-xdist have
        config.stash[KEEPER] = new_keeper(in_turn.folder_of(config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> in_turn.Scheduler:
    return in_turn.Scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    in_turn.tell(config, items)


def pytest_unconfigure(config: pytest.Config) -> None:
    if KEEPER in config.stash:
        config.stash[KEEPER].communicate()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """With -v, tell what each lesson has lost: the property `lesson` of its report."""
    for report in terminalreporter.stats.get("passed", ()) if config.get_verbosity() > 0 else ():
        if lesson := dict(report.user_properties).get("lesson"):
            terminalreporter.line(f"{lesson}: {report.nodeid.rpartition('::test_')[2].replace('_', ' ')}")


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    """Run the suite under nohup as anywhere else. Not on import: the processes of pytest-xdist inherit what it was."""
    machine.let_children_hear_signals()


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Iterator[Broker]:
    """The suite's RabbitMQ, for every test that does nothing to others there: all processes of a run share it."""
    with contextlib.closing(Broker(shared_node(in_turn.folder_of(pytestconfig)))) as broker:
        yield broker


@pytest.fixture(scope="session")
def mortal_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A second node, which tests may stop and kill, or do to what others would notice."""
    node = TlsNode(tmp_path_factory.mktemp("mortal"))
    yield node
    node.kill()


@pytest.fixture
def own_broker(mortal_node: Node) -> Iterator[Broker]:
    """A RabbitMQ to be stopped and killed."""
    if mortal_node.has_ended():
        mortal_node.start()
    with contextlib.closing(Broker(mortal_node)) as broker:
        broker.shorten_waits()
        yield broker


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs one of our commands in this process, and gives its exit status: another process would cost much more."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(machine, "run_in_venv", lambda *_: None)

    def run(file: str, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(PROJECT / file), *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(PROJECT / file), run_name="__main__")
        return int(end.value.code or 0)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def lent_node(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever command starts a RabbitMQ of its own gets the one that tests may do anything to."""
    for name in ("start", "kill"):
        monkeypatch.setattr(own_broker.node, name, lambda: None)
    for module, name in ((rabbitmq, "Node"), (harness, "TlsNode")):
        monkeypatch.setattr(module, name, lambda *_, **__: own_broker.node)


@pytest.fixture
def pika_version() -> str:
    """The pika that the scripts import; test_core.py runs with both."""
    return "newest"


@pytest.fixture
def scripts(broker: Broker, tmp_path: Path, pika_version: str) -> Iterator[Scripts]:
    """The scripts on a queue of the test's own, which is gone afterwards, as they are."""
    it = Scripts(broker, new_queue_name(), tmp_path, pika_version)
    yield it
    it.end_all()
    broker.drop(it.queue, it.dead_letters)


@pytest.fixture
def own_scripts(own_broker: Broker, tmp_path: Path) -> Iterator[Scripts]:
    """The scripts on a RabbitMQ of the test's own."""
    it = Scripts(own_broker, new_queue_name(), tmp_path)
    yield it
    it.end_all()


@pytest.fixture
def relay(broker: Broker) -> Iterator[Relay]:
    with contextlib.closing(Relay(broker.node.amqp_port)) as it:
        yield it


@pytest.fixture
def new_server() -> Iterator[Callable[[], Server]]:
    """Starts servers that do what a test tells them. That they were spoken to in AMQP is checked at the end."""
    servers: list[Server] = []

    def start() -> Server:
        servers.append(Server())
        return servers[-1]

    yield start
    for server in servers:
        server.close()
        assert server.errors == []


@pytest.fixture
def server(new_server: Callable[[], Server]) -> Server:
    return new_server()


@pytest.fixture
def at_server(server: Server, tmp_path: Path) -> Iterator[Scripts]:
    """The scripts at that server, without any RabbitMQ."""
    it = Scripts(server, "tasks", tmp_path)
    yield it
    it.end_all()
