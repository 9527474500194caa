"""The network of a cluster is cut, while each of its nodes, the emitter and the workers go on running."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import machine
from cluster import NAMES, Cluster, end_with
from harness import CONFIG, Broker, eventually
from private_node import start_epmd
from rabbitmq import Node
from stage import RECOVERY, Skipped, Stage, at_work, long_scenario

CUT = 30.0  # seconds; the others replace a leader that is cut off within ten
HEARTBEAT = os.environ.get("HEARTBEAT", "10")  # seconds, in the URLs; RabbitMQ's own is 60
EPMD, AMQP, PANEL = 4369, 5672, 15672  # the usual ports, free on a host of its own

LIBC = ctypes.CDLL(None, use_errno=True)  # Python has these two calls from 3.12 on
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
OWN_NETWORK = "/proc/thread-self/ns/net"


class Host:
    """A machine, as far as its network goes: a network namespace of Linux.

    It has no name that two runs could share. When nobody is in it any more, it is gone, with all that was set up in it.

    Args:
        stage: where it is needed.
        address: its own, when it is plugged in.

    Attributes:
        namespace: how other programs find it.
    """

    def __init__(self, stage: Stage, address: str = "") -> None:
        self.address = address
        with back_afterwards():
            must_succeed(LIBC.unshare(NEW_NETWORK))
            self._descriptor = os.open(OWN_NETWORK, os.O_RDONLY)
        stage.on_end(lambda: os.close(self._descriptor))
        self.namespace = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Have what this thread starts, and where it connects to, be on this host for the time of the block."""
        with back_afterwards():
            must_succeed(LIBC.setns(self._descriptor, NEW_NETWORK))
            yield

    def ip(self, command: str) -> None:
        """Set up its network."""
        with self.here():
            subprocess.run(["ip", *command.split()], check=True)


@contextlib.contextmanager
def back_afterwards() -> Iterator[None]:
    """Have this thread be where it was when the block ends."""
    before = os.open(OWN_NETWORK, os.O_RDONLY)
    try:
        yield
    finally:
        must_succeed(LIBC.setns(before, NEW_NETWORK))
        os.close(before)


def must_succeed(result: int) -> None:
    """Raise the error that a call of the C library has returned."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Network:
    """Hosts around a router. What that drops is dropped without a word, as by a cable that is pulled elsewhere."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._size = stage, 0
        self._router = Host(stage)
        with self._router.here():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")  # only there

    def new_host(self) -> Host:
        """Return another host, plugged in."""
        self._size += 1
        gateway, line = f"10.0.{self._size}.1", f"line{self._size}"
        host = Host(self._stage, f"10.0.{self._size}.2")
        self._router.ip(f"link add {line} type veth peer name eth0 netns {host.namespace}")
        for end, name, address in ((self._router, line, gateway), (host, "eth0", host.address)):
            end.ip(f"addr add {address}/24 dev {name}")
            end.ip(f"link set {name} up")
        host.ip("link set lo up")
        host.ip(f"route add default via {gateway}")
        return host

    @contextlib.contextmanager
    def cut(self, ways: list[tuple[str, str]]) -> Iterator[None]:
        """Drop every packet from one address to another for the time of the block."""
        rules = [f"from {source} to {target} blackhole" for source, target in ways]
        for rule in rules:
            self._router.ip(f"rule add {rule}")
        yield
        for rule in rules:
            self._router.ip(f"rule del {rule}")


class NodeOnHost(Node):
    """A node of a cluster on its own host. Its panel is asked from there, where no cut comes in between."""

    def __init__(self, stage: Stage, name: str, host: Host) -> None:
        for_others = f"listeners.tcp.for_others = {host.address}:{AMQP}\nloopback_users = none\n"
        super().__init__(stage.folder / name, AMQP, PANEL, config=CONFIG + for_others, epmd_port=EPMD)
        self.host, self.name = host, f"{name}@{host.address}"
        self.url = f"amqp://guest:guest@{host.address}:{AMQP}/%2F"
        with host.here():
            end_with(stage, start_epmd(EPMD, host.address))
        stage.on_end(self.kill)

    def start(self) -> None:
        """Start the node on its host."""
        with self.host.here():
            super().start()

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the HTTP API on its host."""
        with self.host.here():
            return super().api(method, path, body)

    def environment(self) -> dict[str, str]:
        """Return the environment of a node whose peers are on other hosts, which have addresses and no names."""
        environment = {**super().environment(), "RABBITMQ_USE_LONGNAME": "true"}
        flags, interface = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", self.host.address.replace(".", ",")
        return {**environment, flags: environment[flags].replace("127,0,0,1", interface)}


@long_scenario
def partitions(stage: Stage) -> None:
    """A node of three is cut off: from its peers, from everything, or one way only. Then all come together again."""
    if not machine.succeeds(["unshare", "--net", "ip", "rule"]):
        raise Skipped("it needs root, network namespaces of Linux, and the program ip")
    network = Network(stage)
    clients = network.new_host()
    with clients.here():
        nodes = [NodeOnHost(stage, name, network.new_host()) for name in NAMES]
        cluster = Cluster(stage, nodes)
        stage.broker, stage.environment["AMQP_URL"] = Broker(nodes[0]), urls(nodes, nodes[0])
        stage.broker.shorten_waits()
        stage.book_worker("--burst").ends()
        print()
        for kind in ("from its peers", "from everything", "one way"):
            for whose in ("the emitter's node", "the leader's node"):
                leader = cluster.leader(stage.queue)
                first = stage.random.choice([node for node in nodes if node is not leader])
                victim = first if whose == "the emitter's node" else leader
                ways = dropped(kind, victim.host, [node.host for node in nodes if node is not victim], clients)
                seconds = longest_wait(stage, cluster, first, network.cut(ways))
                print(f"  {kind:15}  {whose:18}  {seconds:4.0f} s without a confirm", flush=True)
                assert 2 < seconds < CUT - 5, "nobody noticed the cut, or the emitter waited for its end"
        stage.drain()


def longest_wait(stage: Stage, cluster: Cluster, first: Node, cut: contextlib.AbstractContextManager[None]) -> float:
    """Have a cut while all are busy: an emitter that begins at the first node, and a worker at each.

    Return for how many seconds the emitter got no confirm.
    """
    with contextlib.ExitStack() as crews:
        for node in cluster.nodes:
            crews.enter_context(at_work(stage, 1, url=urls(cluster.nodes, node)))
        with stage.fed(stage.load(300, 150), "--url", urls(cluster.nodes, first)) as emitter:
            with cut:
                time.sleep(CUT)
            stage.faults += 1
            confirmed, done = stage.confirmed(), stage.done()
            eventually(lambda: stage.confirmed() > confirmed + 50, "emitting goes on", RECOVERY)
            eventually(lambda: stage.done() > done + 50, "working goes on", RECOVERY)
            cluster.wait_until_whole(stage.queue)
        emitter.ends(within=2 * RECOVERY)
    records = [each for each in stage.events("confirmed") if each["name"].endswith(f"-{emitter.process.pid}")]
    times = [datetime.fromisoformat(record["time"]) for record in records]
    return max((later - earlier).total_seconds() for earlier, later in zip(times, times[1:]))


def urls(nodes: Sequence[Node], first: Node) -> str:
    """Return where RabbitMQ is: each node, one of them first."""
    here = nodes.index(first)
    return ",".join(f"{node.url}?heartbeat={HEARTBEAT}" for node in [*nodes[here:], *nodes[:here]])


def dropped(kind: str, victim: Host, peers: list[Host], clients: Host) -> list[tuple[str, str]]:
    """Return from where to where nothing goes any more."""
    if kind == "one way":
        return [(victim.address, peer.address) for peer in peers]
    others = peers if kind == "from its peers" else [*peers, clients]
    return [(one.address, other.address) for one, other in permutations([victim, *others], 2) if victim in (one, other)]
