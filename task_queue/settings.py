"""Flags and environment variables of both scripts: where RabbitMQ is, the queue's name, the log file.

Messages about a wrong URL never show a password.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pika

from task_queue.failures import SettingsError
from task_queue.queues import Declares, dead_letters_of
from task_queue.text import printable

DEFAULT_URL = "amqp://guest:guest@localhost:5672/%2F"
DEFAULT_QUEUE = "tasks"
LONGEST_HEARTBEAT = 65535  # seconds; AMQP has 16 bits for it
PATIENCE = 300.0  # seconds, see Settings; for a program that ends by itself, others go on for ever


class Settings(NamedTuple):
    """Where a script connects, and under which name.

    Attributes:
        nodes: where RabbitMQ is; the nodes of a cluster are tried in turn.
        queue: the work queue's name.
        name: the connection's and the worker's name, in the admin panel and in the log.
        patience: seconds to go on trying after a refusal, if it worked before.
        declares: which queues to declare.
    """

    nodes: list[pika.URLParameters]
    queue: str
    name: str
    patience: float
    declares: Declares


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the flags of both scripts. Their defaults are read elsewhere, so that `--help` shows no password."""
    url_help = (
        "RabbitMQ's URL; several nodes of a cluster are tried in turn; amqps:// uses TLS "
        f"(default: the environment variable AMQP_URL, else {DEFAULT_URL})"
    )
    flag = parser.add_argument
    flag("--url", type=not_empty, metavar="URL[,URL...]", help=url_help.replace("%", "%%"))
    queue_help = f"the queue (default: the environment variable TASK_QUEUE, else {DEFAULT_QUEUE})"
    flag("--queue", type=not_empty, metavar="NAME", help=queue_help)
    passive_help = "use the queue as it is, and declare nothing: for a queue that others have declared"
    flag("--passive", action="store_true", help=passive_help)
    flag("--log-file", type=not_empty, metavar="FILE", help="append a line with a JSON object for each event")


def not_empty(text: str) -> str:
    """Read a flag's value. An empty one is an error, because it may come from a shell variable that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty")
    return text


class Range(NamedTuple):
    """The numbers that a flag, and the argument with the same name, can have."""

    kind: type[float]
    least: float
    most: float = 1e9

    def __str__(self) -> str:
        upper = f"{self.least:g} or more" if self.most == 1e9 else f"from {self.least:g} to {self.most:,.0f}"
        return f"must be a {'whole ' * (self.kind is int)}number, {upper}"

    def read(self, text: str) -> float:
        """Read a flag's number."""
        not_empty(text)
        with contextlib.suppress(ValueError):
            if self.least <= (value := self.kind(text)) <= self.most:
                return value
        raise argparse.ArgumentTypeError(f"{printable(text)} {self}")

    def check(self, name: str, value: Any) -> None:
        """Raise SettingsError if an argument makes no sense."""
        kinds = (int,) if self.kind is int else (int, float)
        if isinstance(value, bool) or not (isinstance(value, kinds) and self.least <= value <= self.most):
            raise SettingsError(f"{name} {self}")


def settings_for(url: str | None, queue: str | None, name: str, patience: float, passive: bool = False) -> Settings:
    """Return the settings. What is None comes from the environment, or is the default.

    Raises:
        SettingsError: one of them makes no sense.
    """
    for what, text in (("url", url), ("queue", queue), ("name", name)):
        if not isinstance(text, (str, type(None))):
            raise SettingsError(f"{what} must be text.")
    if not name or len(os.fsencode(name)) > 255 or re.search("[\ud800-\udfff]", name):
        raise SettingsError("--name is empty, too long, or not text in this terminal's encoding.")
    return Settings(nodes_in(url), queue_named(queue), name, patience, Declares.NOTHING if passive else Declares.BOTH)


def nodes_in(urls: str | None) -> list[pika.URLParameters]:
    """Return pika's parameters for each of the comma-separated URLs; None means those of the environment."""
    urls = (os.environ.get("AMQP_URL") or DEFAULT_URL if urls is None else urls).strip()
    return [_node_at(url) for url in re.split(r"\s*,\s*(?=amqps?://)", urls)]


def _node_at(url: str) -> pika.URLParameters:
    words = (
        "is not a URL like amqp://user:password@host:5672/virtual-host (percent-encode special characters: / is %2F, "
        "@ is %40), or has an option behind ? that pika does not take."
    )
    try:
        # pika would take the first part of a path with two for the virtual host.
        if re.match("amqps?://", url) and not re.fullmatch("/[^/]+/.*", urlsplit(url).path):
            node = pika.URLParameters(url)
            if not isinstance(node.heartbeat, int) or node.heartbeat <= LONGEST_HEARTBEAT:
                return node
            words = f"has a heartbeat of more than {LONGEST_HEARTBEAT:,} seconds."
    except Exception as error:  # any, because pika evaluates parts of the query as Python
        before, _, query = url.partition("?")
        if "ssl_options" in query and isinstance(error, (OSError, TypeError)):  # of a file, or OpenSSL's
            files = [file for file in re.findall(r":\s*['\"](.+?)['\"]", unquote(query)) if file not in before]
            unreadable = [f"{file} can't be read" for file in files if not os.access(file, os.R_OK)]
            words = f"has ssl_options that can't be used: {printable([*unreadable, str(error)][0])}"
    raise SettingsError(f"--url or AMQP_URL {words}")


def queue_named(name: str | None) -> str:
    """Return the queue's name, if RabbitMQ accepts such a name."""
    name = os.environ.get("TASK_QUEUE") or DEFAULT_QUEUE if name is None else name
    if (
        not name.strip()
        or len(os.fsencode(dead_letters_of(name))) > 255
        or name.startswith("amq.")
        or not name.isprintable()
    ):
        raise SettingsError("--queue or TASK_QUEUE: a queue's name is printable, short, and does not begin with amq.")
    return name


def default_name(role: str) -> str:
    """Return a name that no other process on any machine has: ROLE-HOST-PID."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}"
