"""A cluster of three RabbitMQ nodes on this machine."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness import Broker, eventually
from ports import free_port
from private_node import Node, start_epmd
from stage import RECOVERY, Stage

NAMES = ("one", "two", "three")


class Cluster:
    """Three nodes that keep each message on two of them at least.

    Args:
        stage: where they are needed.
        nodes: not started yet; None for three that share this machine's network.
    """

    def __init__(self, stage: Stage, nodes: Sequence[Node] | None = None) -> None:
        self.nodes = nodes or beside_each_other(stage)
        config = "cluster_formation.peer_discovery_backend = classic_config\n" + "".join(
            f"cluster_formation.classic_config.nodes.{number} = {node.name}\n"
            for number, node in enumerate(self.nodes, 1)
        )
        for node in self.nodes:
            node.config += config
            node.data.mkdir()
            cookie = node.data / ".erlang.cookie"
            cookie.write_text("the same for all three")
            cookie.chmod(0o400)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.start(), self.nodes))
        eventually(lambda: len(self._ask("nodes")) == len(NAMES), "the nodes find each other", RECOVERY)

    def leader(self, queue: str) -> Node:
        """Return the node that leads a queue."""
        return self._named(self._ask(f"queues/%2F/{queue}")["leader"])

    def node_of_emitter(self, _queue: str) -> Node:
        """Return the node that the emitter is connected to."""

        def found() -> str | None:
            connections = self._ask("connections")
            return next(
                (each["node"] for each in connections if each["user_provided_name"].startswith("emitter")), None
            )

        return self._named(eventually(found, "the panel knows the emitter's connection"))

    def wait_until_whole(self, queue: str) -> None:
        """Wait until each node takes part in a queue again."""
        eventually(
            lambda: len(self._ask(f"queues/%2F/{queue}").get("online", [])) == len(NAMES), "all are back", RECOVERY
        )

    def _named(self, name: str) -> Node:
        named = [node for node in self.nodes if node.name == name]
        return named[0]

    def _ask(self, path: str) -> Any:
        with contextlib.suppress(OSError):  # it may wait for a node that is cut off
            return Broker(next(node for node in self.nodes if not node.has_ended())).api("GET", path)
        return {}


def beside_each_other(stage: Stage) -> list[Node]:
    """Return three nodes that find each other by an epmd that runs until the scenario ends."""
    port = free_port()
    end_with(stage, start_epmd(port))
    return [stage.node(name, epmd_port=port) for name in NAMES]


def end_with(stage: Stage, process: subprocess.Popen[bytes]) -> None:
    """Have a process end with the scenario."""
    stage.on_end(process.wait)  # the last one that is named is called first
    stage.on_end(process.kill)
