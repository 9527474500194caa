#!/usr/bin/env python3
"""Finds a RabbitMQ, or starts a private one: on the usual ports if they are free, so that the scripts need no flag.

As a command, it runs a private one until Ctrl+C. Its queues are kept in .rabbitmq/, and are there again at the next
start.

    python3 tools/rabbitmq.py
    python3 tools/rabbitmq.py --private            even if a RabbitMQ already uses those ports
    python3 tools/rabbitmq.py ctl list_queues      rabbitmqctl for the node that runs in another terminal
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import installation
import machine
from ports import free_port, is_rabbitmq
from private_node import Node, NodeError, ports_of

AMQP_PORT, MANAGEMENT_PORT = 5672, 15672
DATA = machine.PROJECT / ".rabbitmq"


def is_there() -> bool:
    """Tell whether a RabbitMQ answers on the usual port. If none does, install it first: that may start one."""
    if not is_rabbitmq("localhost", AMQP_PORT):
        installation.ensure_server()
    return is_rabbitmq("localhost", AMQP_PORT)


@contextlib.contextmanager
def usual_node() -> Iterator[Node]:
    """Run the node of this checkout during the block, on RabbitMQ's usual ports if they are free."""
    installation.ensure_server()
    machine.say("Starting a private RabbitMQ (about ten seconds) ...")
    # If they are not, on the next ones, so that an address that somebody has typed is good again the next time.
    amqp_port, management_port = (free_port(port, port + 1) for port in (AMQP_PORT, MANAGEMENT_PORT))
    node = Node(DATA, amqp_port, management_port)
    node.start()
    try:
        yield node
    finally:
        node.stop()


@contextlib.contextmanager
def found_or_started() -> Iterator[str]:
    """Give the URL of a RabbitMQ: AMQP_URL, or one on localhost, or a private node that runs during the block."""
    if url := os.environ.get("AMQP_URL"):
        yield url
    elif is_there():
        yield f"amqp://guest:guest@localhost:{AMQP_PORT}/%2F"
    else:
        with usual_node() as node:
            yield node.url


def ctl(arguments: list[str]) -> int:
    """Run rabbitmqctl for the node of this checkout, and return its exit status."""
    epmd_port, _ = ports_of(DATA)
    if not epmd_port:
        raise NodeError("No RabbitMQ of this folder is running. Start it:  python3 tools/rabbitmq.py")
    node = Node(DATA, epmd_port=epmd_port)
    status = subprocess.run(installation.command("rabbitmqctl", *arguments), env=node.environment()).returncode
    if arguments[:1] == ["shutdown"]:  # if the node's terminal is gone, nobody else ends its port mapper
        subprocess.run(installation.epmd_command("-port", str(epmd_port), "-kill"), capture_output=True)
    return status


def main() -> int:
    """Keep a private node running until Ctrl+C."""
    if sys.argv[1:2] == ["ctl"]:
        return ctl(sys.argv[2:])
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--private] | ctl ARGUMENT ...",
        description="Run a private RabbitMQ until Ctrl+C, with its data in .rabbitmq/.",
        epilog="With ctl, run rabbitmqctl for the node in your other terminal: ctl list_queues",
    )
    parser.add_argument("--private", action="store_true", help="start one even if a RabbitMQ already runs here")
    options = parser.parse_args()
    _, own_port = ports_of(DATA)
    if not options.private and is_there():
        print(f"A RabbitMQ already answers on localhost:{AMQP_PORT}, and the scripts will use it.")
        if own_port:
            print("It is this folder's. If its terminal is gone, stop it with:  python3 tools/rabbitmq.py ctl shutdown")
        elif not machine.WINDOWS:
            print("To start one of your own beside it:  python3 tools/rabbitmq.py --private")
        return 0
    if own_port:
        raise NodeError(
            f"A RabbitMQ is running or starting on {DATA}: use that one, at amqp://localhost:{own_port}\n"
            "If its terminal is gone, stop it with:  python3 tools/rabbitmq.py ctl shutdown"
        )
    with usual_node() as node:
        try:
            print(f"RabbitMQ {node.version} is up.  Admin panel: {node.admin_url}  (user guest, password guest)")
            if node.amqp_port != AMQP_PORT:
                print(f"Port {AMQP_PORT} was taken. In the other terminals first:  export AMQP_URL='{node.url}'")
            print("Its queues are kept in .rabbitmq/. To stop it press CTRL+C", flush=True)
            while not node.has_ended():
                time.sleep(0.5)
        except KeyboardInterrupt:
            print("\nStopping RabbitMQ ...", flush=True)
            return 0
        raise NodeError(f"RabbitMQ has ended by itself. Its log: {node.log}")


if __name__ == "__main__":
    machine.run_main(main)
