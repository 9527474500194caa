"""A RabbitMQ as the tests see it and set it up, beside the scripts."""

from __future__ import annotations

import base64
import contextlib
import itertools
import subprocess
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import installation
import pika
import pika.exceptions
import trustme
from pika.adapters.blocking_connection import BlockingChannel
from rabbitmq import Node, free_port
from waiting import DEADLINE, eventually

CONFIG = (  # of every node of the tests
    "max_message_size = 16777216\n"  # the limit that RabbitMQ 4 has by itself
    # The panel looks every second, and not every five, who has come and gone.
    "management.sample_retention_policies.global.minute = 1\n"
    "management.sample_retention_policies.basic.minute = 1\n"
    "management.sample_retention_policies.detailed.minute = 1\n"
)
SILENT_QUEUE = 0.2  # seconds; of a queue that does not answer within 0.25, RabbitMQ says: no messages, no consumers


class TlsNode(Node):
    """A node that listens with TLS, too (at `tls_port`), with the certificate in its folder."""

    def __init__(self, data: Path) -> None:
        self.tls_port = free_port()
        self.certificate, self.key = data.resolve() / "certificate.pem", data.resolve() / "key.pem"
        where = f"listeners.ssl.local = 127.0.0.1:{self.tls_port}\n"
        files = f"ssl_options.certfile = {self.certificate}\nssl_options.keyfile = {self.key}\n"
        super().__init__(data, config=CONFIG + where + files)
        data.mkdir(exist_ok=True)
        self.show(trustme.CA().issue_cert("localhost"))

    def show(self, certificate: trustme.LeafCert) -> None:
        """Have this certificate shown from the start, or from when the node has forgotten the one before."""
        certificate.cert_chain_pems[0].write_to_path(str(self.certificate))
        certificate.private_key_pem.write_to_path(str(self.key))


class Broker:
    """A node, seen through the admin panel's HTTP interface, and a connection that is kept, because counts() loops."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.url = node.url
        self._channel: BlockingChannel | None = None

    def api(self, method: str, path: str, body: object = None) -> Any:
        try:
            return self.node.api(method, path, body)
        except urllib.error.HTTPError as error:
            if method != "GET" or error.code < 500:
                raise
        return self.node.api(method, path, body)  # a loaded node may have failed to collect what a page shows

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.node.version.split(".")[:2]
        return int(major), int(minor)

    def set_policy(self, queue: str, pattern: str | None = None, **definition: object) -> None:
        """Give a queue a policy, by which a failed task hardly waits, where RabbitMQ would have it wait."""
        if self.version >= (4, 3):
            definition = {"delayed-retry-min": 50, "delayed-retry-max": 100, **definition}
        policy = {"pattern": pattern or f"^{queue}$", "apply-to": "queues", "priority": int(pattern is None)}
        if definition:
            self.api("PUT", f"policies/%2F/{queue}", {**policy, "definition": definition})

    def shorten_waits(self) -> None:
        """Give all queues of the tests that policy."""
        self.set_policy("short-waits", "^test-")

    def declare(self, queue: str, **arguments: object) -> None:
        self.api("PUT", f"queues/%2F/{queue}", {"durable": True, "arguments": arguments})

    def drop(self, *queues: str) -> None:
        for name in queues:
            self._on_channel(lambda channel: channel.queue_delete(name))  # noqa: B023

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """Return what is ready in the queue, and put it back, which to RabbitMQ 4.3 is a failed try."""
        request = {"count": 100_000, "ackmode": "ack_requeue_true", "encoding": "base64"}
        found = list(self.api("POST", f"queues/%2F/{queue}/get", request))
        for message in found:
            message["body"] = base64.b64decode(message.pop("payload"))
        # For RabbitMQ, whoever still has what was asked for by basic.get is a consumer, too.
        eventually(lambda: self.counts(queue)[0] >= len(found), "RabbitMQ has put them back")
        return found

    def bodies(self, queue: str) -> list[str]:
        return [message["body"].decode() for message in self.messages(queue)]

    def take(self, queue: str, number: int) -> list[str]:
        """Take so many messages out of the queue: for thousands, much faster than bodies()."""

        def take(channel: BlockingChannel) -> list[str]:
            taken = channel.consume(queue, auto_ack=True, inactivity_timeout=DEADLINE)
            bodies = [body.decode() for _, _, body in itertools.islice(taken, number)]
            channel.cancel()
            return bodies

        return list(self._on_channel(take))

    def publish(self, queue: str, body: bytes, **properties: object) -> None:
        """Send a message as another client would: with no properties but these."""
        payload = {"payload": base64.b64encode(body).decode(), "payload_encoding": "base64"}
        message = {"properties": properties, "routing_key": queue, **payload}
        assert self.api("POST", "exchanges/%2F/amq.default/publish", message)["routed"]

    def counts(self, queue: str) -> tuple[int, int]:
        """Return how many messages wait in a queue, and how many consumers it has, as of now."""
        deadline = time.monotonic() + DEADLINE
        while True:
            began = time.monotonic()
            try:
                counts: tuple[int, int] = self._on_channel(lambda channel: counts_on(channel, queue))
            except pika.exceptions.ChannelClosedByBroker:
                return 0, 0
            now = time.monotonic()
            if counts != (0, 0) or now - began < SILENT_QUEUE or now > deadline:
                return counts

    def eval(self, code: str) -> None:
        """Have the node evaluate some Erlang, as `rabbitmqctl eval` does, which takes a hundred times as long."""
        cookie = (self.node.data / ".erlang.cookie").read_text()
        command = installation.in_its_root(["erl_call", "-c", cookie, "-sname", self.node.name, "-e"])
        environment = self.node.environment()

        def answer() -> str:  # empty if a busy node lets nobody in for now
            return subprocess.run(command, input=f"{code}\n", env=environment, stdout=subprocess.PIPE, text=True).stdout

        said = eventually(answer, "the node evaluates it")
        assert said.startswith("{ok, "), said

    def _on_channel(self, do: Callable[[BlockingChannel], Any]) -> Any:
        """Do something on the connection, and again on a new one if that was closed, or its node, meanwhile."""
        is_new = self._channel is None
        try:
            return do(self._own_channel())
        except pika.exceptions.AMQPError as error:
            if isinstance(error, pika.exceptions.ChannelClosedByBroker):
                raise
            self.close()
            if is_new:
                raise
        return do(self._own_channel())

    def _own_channel(self) -> BlockingChannel:
        if self._channel is None:
            parameters = pika.URLParameters(self.url)
            parameters.heartbeat = 0  # nobody drives the connection between two looks
            self._channel = pika.BlockingConnection(parameters).channel()
        elif self._channel.is_closed:
            self._channel = self._channel.connection.channel()
        return self._channel

    def close(self) -> None:
        """Close the connection, if there is one; the next look makes another."""
        if self._channel is not None:
            with contextlib.suppress(pika.exceptions.AMQPError):
                self._channel.connection.close()
        self._channel = None


def leader_of(queue: str) -> str:
    """Return how Erlang finds the process of a quorum queue's leader."""
    return f'whereis(list_to_atom("%2F_{queue}"))'


def counts_on(channel: BlockingChannel, queue: str) -> tuple[int, int]:
    """Return how many messages wait in a queue, and how many consumers it has."""
    answer = channel.queue_declare(queue, passive=True).method
    return answer.message_count or 0, answer.consumer_count or 0
