"""Reads the URLs of RabbitMQ's nodes. Messages about a wrong URL never show a password."""

from __future__ import annotations

import ast
import os
import re
from urllib.parse import parse_qs, urlsplit

import pika

from task_queue.failures import SettingsError
from task_queue.text import printable

DEFAULT_URL = "amqp://guest:guest@localhost:5672/%2F"
FORM = (
    "is not a URL like amqp://user:password@host:5672/virtual-host "
    "(percent-encode special characters: / is %2F, @ is %40)."
)


def nodes_in(urls: str | None) -> list[pika.URLParameters]:
    """Return pika's parameters for each of the comma-separated URLs; None means those of the environment.

    Raises:
        SettingsError: one of them is not a URL of a RabbitMQ.
    """
    urls = (os.environ.get("AMQP_URL") or DEFAULT_URL if urls is None else urls).strip()
    return [_node_at(url) for url in re.split(r"\s*,\s*(?=amqps?://)", urls)]


def _node_at(url: str) -> pika.URLParameters:
    try:
        if not re.match("amqps?://", url) or re.fullmatch("/[^/]+/.*", urlsplit(url).path):
            raise ValueError  # pika would take the first part of such a path for the virtual host
        return pika.URLParameters(url)
    except Exception:  # any exception, because pika evaluates parts of the query as Python
        words, password = _what_is_wrong(url), re.search("://[^:]*:([^@]+)@", url)
        tells = password and re.search(rf"(?<!\w){re.escape(password[1])}(?!\w)", words)
        raise SettingsError(f"--url or AMQP_URL {FORM if tells else words}") from None


def _what_is_wrong(url: str) -> str:
    before, _, query = url.partition("?")
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    for name, path in _files_in(options.get("ssl_options", "")):
        if not os.access(path, os.R_OK):
            return f"has ssl_options whose {name} can't be read: {printable(path)}"
    if "@" in query or not re.match("amqps?://.*@", before):  # what follows the ? may be a part of a password
        return FORM
    if unknown := [name for name in options if not hasattr(pika.URLParameters, f"_set_url_{name}")]:
        known = ", ".join(name[9:] for name in dir(pika.URLParameters) if name.startswith("_set_url_"))
        return f"has an option that pika does not know, {printable(unknown[0])}. Known are: {known}."
    for name, value in options.items():
        try:
            pika.URLParameters(f"amqp://localhost/?{name}={value}")
        except Exception:
            return f"has a value that makes no sense for the option {name}."
    return FORM


def _files_in(ssl_options: str) -> list[tuple[str, str]]:
    try:
        options = dict(ast.literal_eval(ssl_options))
    except (ValueError, TypeError, SyntaxError):
        return []
    names = ("ca_certs", "cafile", "certfile", "keyfile")
    return [(name, options[name]) for name in names if isinstance(options.get(name), str)]
