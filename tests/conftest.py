"""A real RabbitMQ for the suite, and the scripts on queues of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import in_turn
import pytest
from harness import CONFIG, Broker, Scripts, new_queue_name
from machine import let_children_hear_signals
from rabbitmq import Node
from relay import Relay
from scripted_server import Server
from shared_node import SuiteRun, shared_node

RUN = pytest.StashKey[SuiteRun]()


@pytest.hookimpl(trylast=True)  # when there is a folder for temporary files
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # and not in each of the processes of pytest-xdist
        config.stash[RUN] = SuiteRun(config._tmp_path_factory.mktemp("suite"))  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["folder"] = str(node.config.stash[RUN].folder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> in_turn.Scheduler:
    return in_turn.Scheduler(config, log, folder_of_run(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    in_turn.tell(items, folder_of_run(config))


def pytest_unconfigure(config: pytest.Config) -> None:
    if RUN in config.stash:
        config.stash[RUN].end()


def folder_of_run(config: pytest.Config) -> Path:
    """Return the folder that all processes of this run of the suite have in common."""
    return config.stash[RUN].folder if RUN in config.stash else Path(config.workerinput["folder"])  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    """Run the suite under nohup as anywhere else. Not on import: the processes of pytest-xdist inherit what it was."""
    let_children_hear_signals()


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Iterator[Broker]:
    """The suite's RabbitMQ, for every test that does nothing to others there: all processes of a run share it."""
    broker = Broker(shared_node(folder_of_run(pytestconfig)))
    yield broker
    broker.close()


@pytest.fixture(scope="session")
def mortal_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A second node, which tests may stop and kill, or do to what others would notice."""
    node = Node(tmp_path_factory.mktemp("mortal"), config=CONFIG)
    yield node
    node.kill()


@pytest.fixture
def own_broker(mortal_node: Node) -> Iterator[Broker]:
    """A RabbitMQ to be stopped and killed."""
    if mortal_node.has_ended():
        mortal_node.start()
    broker = Broker(mortal_node)
    broker.shorten_waits()
    yield broker
    broker.close()


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
    it = Scripts(own_broker, new_queue_name(), tmp_path, "newest")
    yield it
    it.end_all()


@pytest.fixture
def relay(broker: Broker) -> Iterator[Relay]:
    it = Relay(broker.node.amqp_port)
    yield it
    it.close()


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
    """A server that does what the test tells it."""
    return new_server()


@pytest.fixture
def at_server(server: Server, tmp_path: Path) -> Iterator[Scripts]:
    """The scripts at that server, without any RabbitMQ."""
    it = Scripts(server, "tasks", tmp_path, "newest")
    yield it
    it.end_all()
