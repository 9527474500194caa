#!/usr/bin/env python3
"""Shows how old a queue must be, so that what was confirmed in it survives a node that is killed.

    python3 tests/faults/young_queue.py                    on the installed RabbitMQ, about two minutes
    python3 tests/faults/young_queue.py --rabbitmq 4.3     on another one

Each time on a new node: a queue is declared, gets a task that is confirmed, and its node is killed when it has the age.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tools"), str(PROJECT / "tests")]

import debian_root  # noqa: E402
import machine  # noqa: E402
import rabbitmq  # noqa: E402

ELECTS_WITHIN = 10.0  # seconds, in which a node that starts has found its queues
AGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)  # seconds


def is_kept(node: rabbitmq.Node, age: float) -> bool:
    """Tell whether a confirmed task is there again, whose queue had that age in seconds when its node was killed."""
    import pika  # only here, because it may have to be installed first

    from task_queue.rabbitmq.queues import arguments_of

    parameters = pika.URLParameters(node.url)
    connection = pika.BlockingConnection(parameters)
    channel, began = connection.channel(), time.monotonic()
    channel.queue_declare("young", durable=True, arguments=arguments_of("young"))
    channel.confirm_delivery()
    channel.basic_publish("", "young", b"task", pika.BasicProperties(delivery_mode=2), mandatory=True)
    connection.close()
    time.sleep(max(0.0, began + age - time.monotonic()))
    node.kill()
    node.start()
    deadline = time.monotonic() + ELECTS_WITHIN
    while time.monotonic() < deadline:  # a queue without a leader yet is not found, or looks empty
        refused = contextlib.suppress(pika.exceptions.AMQPError)
        with refused, contextlib.closing(pika.BlockingConnection(parameters)) as connection:
            if connection.channel().queue_declare("young", passive=True).method.message_count:
                return True
        time.sleep(0.2)
    return False


def main() -> int:
    """Try each age, and return the exit status: 1 if a queue of five seconds or more was forgotten."""
    parser = argparse.ArgumentParser(description="Show how old a queue must be to survive a node that is killed.")
    debian_root.add_option(parser)
    parser.add_argument("--ages", type=float, nargs="+", default=AGES, metavar="S", help="seconds")
    options = parser.parse_args()
    debian_root.choose(options.rabbitmq)
    machine.run_in_venv("requirements.txt")
    status = 0
    for age in options.ages:
        with tempfile.TemporaryDirectory() as folder:
            node = rabbitmq.Node(Path(folder) / "node")
            node.start()
            try:
                kept = is_kept(node, age)
            finally:
                node.kill()
        machine.say(f"RabbitMQ {node.version}: a queue of {age:.1f} s is {'kept' if kept else 'forgotten'}.")
        status |= age >= 5 and not kept
    return int(status)


if __name__ == "__main__":
    machine.run_main(main)
