"""What both scripts are told by flags and environment: where RabbitMQ is, the queue's name, the log file."""

from __future__ import annotations

import argparse
import os
import re
import socket
from typing import NamedTuple

import pika

from task_queue.failures import SettingsError
from task_queue.queues import dead_letters_of

DEFAULT_URL = "amqp://guest:guest@localhost:5672/%2F"
DEFAULT_QUEUE = "tasks"


class Settings(NamedTuple):
    """Where a script works, and as whom.

    Attributes:
        nodes: where RabbitMQ is; the nodes of a cluster are tried in turn.
        queue: the work queue's name.
        name: of the connection, and of a worker, in the admin panel and in the log.
        patience: seconds for which we go on after an error that retrying can't mend, once there was a success.
    """

    nodes: list[pika.URLParameters]
    queue: str
    name: str
    patience: float


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the flags of both scripts. Their defaults are read elsewhere, so that `--help` shows no password."""
    url_help = (
        "where RabbitMQ is; several nodes of a cluster are tried in turn; amqps:// is TLS "
        f"(default: AMQP_URL of the environment, else {DEFAULT_URL})"
    )
    parser.add_argument("--url", metavar="URL[,URL...]", help=url_help.replace("%", "%%"))
    queue_help = f"(default: TASK_QUEUE of the environment, else {DEFAULT_QUEUE})"
    parser.add_argument("--queue", metavar="NAME", help=queue_help)
    parser.add_argument("--log-file", metavar="FILE", help="append one JSON object per line for each event")


def settings_for(url: str | None, queue: str | None, name: str, patience: float) -> Settings:
    """Return the settings; what is not given comes from the environment, or is the default.

    Raises:
        SettingsError: one of them makes no sense.
    """
    if len(os.fsencode(name)) > 255 or re.search("[\ud800-\udfff]", name):
        raise SettingsError("--name is too long, or is not text in this terminal's encoding.")
    return Settings(nodes_in(url), queue_named(queue), name, patience)


def nodes_in(urls: str | None) -> list[pika.URLParameters]:
    """Return pika's parameters for each of the comma-separated URLs. An error shows no part of it: no password."""
    urls = (urls or os.environ.get("AMQP_URL") or DEFAULT_URL).strip()
    try:
        if not re.match("amqps?://", urls):
            raise ValueError
        return [pika.URLParameters(url) for url in re.split(r"\s*,\s*(?=amqps?://)", urls)]
    except Exception:  # of any kind, because pika evaluates some of the query as Python
        raise SettingsError(
            "--url or AMQP_URL is not a URL like amqp://user:password@host:5672/virtual-host "
            "(percent-encode special characters: / is %2F, @ is %40)."
        ) from None


def queue_named(name: str | None) -> str:
    """Return the queue's name, if RabbitMQ would take it."""
    name = name or os.environ.get("TASK_QUEUE") or DEFAULT_QUEUE
    if len(os.fsencode(dead_letters_of(name))) > 255 or name.startswith("amq.") or not name.isprintable():
        raise SettingsError("--queue or TASK_QUEUE: a queue's name is printable, short, and does not begin with amq.")
    return name


def default_name(role: str) -> str:
    """Return a name that no other process on any machine has: ROLE-HOST-PID."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}"
