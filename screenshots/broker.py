"""The RabbitMQ of the pictures, with the queues as each of them begins."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.error
from collections.abc import Iterator

import machine
from desktop import PictureError, eventually, temporary_folder
from ports import free_port
from private_node import Node
from rabbitmq import AMQP_PORT, MANAGEMENT_PORT

QUEUES = ("tasks", "tasks.dead-letters")


def check_ports() -> None:
    """Check that RabbitMQ's usual ports, which the pictures show, are free for one of our own.

    Raises:
        PictureError: they are in use.
    """
    for port in (AMQP_PORT, MANAGEMENT_PORT):
        if free_port(port) != port:
            raise PictureError(f"Port {port} is in use. The pictures show RabbitMQ at its usual ports: please free it.")


@contextlib.contextmanager
def private_rabbitmq() -> Iterator[Node]:
    """Give a RabbitMQ of our own, on the usual ports."""
    machine.say("Starting a private RabbitMQ (about ten seconds) ...")
    with temporary_folder() as folder:
        node = Node(folder, AMQP_PORT, MANAGEMENT_PORT)
        node.start()
        try:
            node.ctl("set_cluster_name", node.name)  # which would be made of this machine's name
            yield node
        finally:
            node.stop()


def renew_queues(node: Node) -> None:
    """Have both queues there, with nothing in them and nobody at them."""
    eventually(lambda: not node.api("GET", "connections"), "all have gone")
    for queue in QUEUES:
        with contextlib.suppress(urllib.error.HTTPError):  # there is none yet
            node.api("DELETE", f"queues/%2F/{queue}")
    emit()


def has_consumers(node: Node, number: int) -> bool:
    """Tell whether so many workers wait for tasks."""
    return len(node.api("GET", "consumers")) == number


def emit(*arguments: str, tasks: str = "") -> None:
    """Run the emitter, with `tasks` piped into it."""
    command = [sys.executable, str(machine.PROJECT / "emitter_of_tasks.py"), *arguments]
    subprocess.run(
        command, input=tasks.encode(), check=True, env=machine.clean_environment(), stdout=subprocess.DEVNULL
    )
