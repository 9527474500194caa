"""A real RabbitMQ for the suite, and the scripts on queues of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import CONFIG, Broker, Scripts, new_queue_name
from machine import let_children_hear_signals
from rabbitmq import Node
from relay import Relay
from scripted_server import Server


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    """Run the suite under nohup as anywhere else. Not on import: the processes of pytest-xdist inherit what it was."""
    let_children_hear_signals()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The suite's RabbitMQ, for every test that does not stop it."""
    node = Node(tmp_path_factory.mktemp("rabbitmq"), config=CONFIG)
    node.start()
    broker = Broker(node)
    broker.shorten_waits()
    yield broker
    broker.close()
    node.kill()


@pytest.fixture(scope="session")
def mortal_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A second node, which tests may stop and kill."""
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
