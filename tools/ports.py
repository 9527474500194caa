"""Ports of this machine: which are free, and where a RabbitMQ answers."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import socket

# Below the ports of outgoing connections: such a connection could take a port before its node starts, or while it
# restarts. Each process begins with a different port.
OTHER_PORTS = (20_000 + number % 12_000 for number in itertools.count(100 * os.getpid()))
CONNECTION_START = b"\x00\x0a\x00\x0a"  # class 10, method 10


def is_rabbitmq(host: str, port: int) -> bool:
    """Tell whether an AMQP 0-9-1 server answers our protocol header there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=3) as peer:
        peer.sendall(b"AMQP\x00\x00\x09\x01")
        with peer.makefile("rb") as answer:
            frame = answer.read(11)  # a method, on channel 0; its size; which method
            return frame.startswith(b"\x01\x00\x00") and frame.endswith(CONNECTION_START)
    return False


def free_port(*wanted: int) -> int:
    """Return the first of these ports that is free on every local address, else another, reserved for this process."""
    ports = itertools.chain(wanted, OTHER_PORTS)
    return next(port for port in ports if is_free(port) and (port in wanted or reserve(port)))


def is_free(port: int) -> bool:
    """Tell whether nobody listens at a port, and a server may, at every local address."""
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=3):
        return False  # macOS would let both have it
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
        return True
    return False


def reserve(port: int) -> bool:
    """Have free_port() give a port to no other process before a node listens there; False if another one has it."""
    sign = socket.socket(type=socket.SOCK_DGRAM)  # UDP, which leaves the TCP port to the node
    atexit.register(sign.close)
    with contextlib.suppress(OSError):
        sign.bind(("127.0.0.1", port))
        return True
    return False
