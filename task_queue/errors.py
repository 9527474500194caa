"""Error messages: what went wrong with RabbitMQ, and how to fix it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pika

from task_queue.commands import (
    LOCAL_HOSTS,
    always_quoted,
    permissions,
    policy,
    quoted,
    rabbitmqctl,
    set_variable,
    start_rabbitmq,
)
from task_queue.failures import QueueError
from task_queue.queues import LONGEST_TASK, Rules
from task_queue.text import printable

CERTIFICATE = (
    "name it in --url with ?ssl_options={'certfile': 'client.pem', 'keyfile': 'client.key', 'ca_certs': 'ca.pem'}"
)
# https://docs.python.org/3/using/mac.html
MACOS_CERTIFICATES = (
    "\nPython from python.org knows no authorities before you run its Install Certificates.command."
    if sys.platform == "darwin"
    else ""
)
WRONG_PORT = (
    "Is it a TLS port? That needs amqps:// Or the admin panel's? AMQP has another one, 5672. "
    "Or is RabbitMQ still starting?"
)
# A pattern for pika's innermost exception, our message, and whether it is final: trying again can't help.
WORDS: list[tuple[str, str, bool]] = [
    ("^gaierror", "No machine named {host} is known: check the host in --url or AMQP_URL.", False),
    ("^Unicode", "RabbitMQ at {at} can't be looked up: that is no name of a machine.", False),
    ("^ConnectionRefused", "Nothing listens at {at}: is RabbitMQ running there?{start}", False),
    ("^SSLCert.*(issuer|self-signed)", "The certificate of {at} is not accepted: {why}\n{trust}", False),
    ("^SSLCert", "The certificate of {at} is not accepted: {why}", False),
    (
        "(?i)certificate.required|handshake.failure",
        "{at} wants a certificate of yours: {certificate}",
        False,
    ),
    ("^SSL", "No TLS with {at} ({why}): is that its TLS port? amqp:// is without TLS.", False),
    ("^ConnectionBlocked", "RabbitMQ at {at} took no tasks for as long as blocked_connection_timeout allows.", False),
    (r"^\w*[Tt]imeout|Timeout while", "{at} does not answer: a firewall in between, or a RabbitMQ that hangs?", False),
    (
        "^(Incompatible|Stream|ConnectionReset).* port 1567[12]$",
        "{at} is the port of RabbitMQ's admin panel. AMQP has another one: 5672, or 5671 with TLS.",
        False,
    ),
    ("^Incompatible", "{at} ended the connection without a word of AMQP.{other_port}", False),
    (
        r"\(403\).*Login was refused",
        "RabbitMQ at {at} refused user {user} with this password: check both in --url or AMQP_URL.\n{login}",
        True,
    ),
    (r"\(403\)", "User {user} may not do this ({why}).\n{allow}", True),
    (
        r"\(530\).*vhost  not found",
        "RabbitMQ at {at} has no virtual host with an empty name. A URL for the virtual host / ends in /%2F",
        True,
    ),
    (r"\(530\).*not found", "RabbitMQ at {at} has no virtual host {vhost}.\n{add_vhost}", True),
    (r"\(530\).* limit ", "RabbitMQ at {at} takes no more connections ({why}).", False),
    (r"\(530\)", "RabbitMQ at {at} does not let user {user} into virtual host {vhost} ({why}).\n{allow}", True),
    (r"\(406\).*inequivalent", "Queue {queue} has other settings ({why}).\n{delete}", True),
    (r"\(406\).*larger than", "RabbitMQ refuses a task that is too large ({why}).", False),
    (r"\(406\).*acknowledgement", "RabbitMQ waits no longer for an acknowledgement ({why}).\n{more_time}", False),
    (r"\(404\).*no queue", "Queue {queue} was deleted, and is declared again.", False),
    (r"\(\d{3}\)", "RabbitMQ at {at} closed the connection ({why}).", False),
    ("", "The connection to RabbitMQ at {at} was lost ({why}).", False),
]


def in_words(error: BaseException, node: pika.URLParameters, queue: str, rules: Rules) -> tuple[str, bool]:
    """Say what went wrong and how to fix it; and whether it is final, so that trying again can't help."""
    error = root_cause(error)
    if isinstance(error, QueueError):
        return str(error), False
    names = f"{type(error).__name__} {error!r} port {node.port}"
    sentence, is_final = next((words, final) for pattern, words, final in WORDS if re.search(pattern, names))
    facts = _facts(error, node, queue)
    # Only those that are needed: to look whether the private RabbitMQ runs reads files, and losses come in rows.
    hints = {
        name: hint() for name, hint in _hints(node, queue, facts["queue"], rules).items() if f"{{{name}}}" in sentence
    }
    return sentence.format(**facts, **hints), is_final


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost of the exceptions that pika wraps around each other when it can't connect."""
    inner = [*error.args[:1], getattr(error, "exception", None), *getattr(error, "exceptions", [])]
    causes = [cause for cause in inner if isinstance(cause, BaseException)]
    return root_cause(causes[-1]) if causes else error


def why_cancelled(taken_back_after: float | None) -> str:
    """Say why RabbitMQ has cancelled a worker's subscription to a queue that exists.

    Args:
        taken_back_after: seconds that the task in hand has taken, if that is longer than its ack timeout.
    """
    if taken_back_after is None:
        return "RabbitMQ cancelled this worker's subscription. Was the queue deleted and declared again?"
    return (
        "RabbitMQ waits no longer for an acknowledgement: it has taken the task back after "
        f"{taken_back_after:,.0f} s. Give tasks more time with --ack-timeout."
    )


def largest_size(error: BaseException) -> int | None:
    """Return how many bytes RabbitMQ takes in one message, if it closed the channel because of a larger one."""
    told = re.search(r"message size \d+ is larger than \D*(\d+)", str(error))
    return int(told[1]) if told else None


def _more_time(node: pika.URLParameters, queue: str, rules: Rules) -> str:
    if rules.knows_queues_own_timeout:
        return "Give its tasks more time" + policy(node, queue, {"x-consumer-timeout": LONGEST_TASK})
    return f"Give tasks more time in rabbitmq.conf:  consumer_timeout = {LONGEST_TASK}"


def _login(node: pika.URLParameters, user: str) -> str:
    if user == "guest" and node.host not in LOCAL_HOSTS:
        return "guest may log in on the same machine only. Add a user" + rabbitmqctl(node, "add_user NAME PASSWORD")
    return "Or set another password" + rabbitmqctl(node, "change_password", quoted(user), "PASSWORD")


def _hints(node: pika.URLParameters, queue: str, other_queue: str, rules: Rules) -> dict[str, Callable[[], str]]:
    user, vhost = printable(getattr(node.credentials, "username", "")), always_quoted(printable(node.virtual_host))
    return {
        "login": lambda: _login(node, user),
        "allow": lambda: f"Allow it{permissions(node, user, queue)}",
        "add_vhost": lambda: "Add it" + rabbitmqctl(node, "add_vhost", vhost),
        "delete": lambda: (
            "Take another one with --queue NAME, or, if nothing in it is needed, delete it"
            + rabbitmqctl(node, "-p", vhost, "delete_queue", quoted(other_queue))
        ),
        "more_time": lambda: _more_time(node, queue, rules),
    }


def _facts(error: BaseException, node: pika.URLParameters, queue: str) -> dict[str, str]:
    # RabbitMQ's own words, which only some of pika's exceptions have in their text: (403) 'ACCESS_REFUSED - ...'
    reply = re.search(r"\(\d{3}\) (['\"])(.*?)\1['\",)]*$", repr(error))
    named = re.search(r"(?:for|no) queue '(.*?)' in vhost", repr(error))
    return {
        "host": printable(node.host),
        "at": printable(f"[{node.host}]:{node.port}" if ":" in node.host else f"{node.host}:{node.port}"),
        "user": printable(getattr(node.credentials, "username", "")),
        "vhost": printable(node.virtual_host),
        "queue": named[1] if named else queue,
        "why": printable(reply[2].replace("\\'", "'") if reply else str(error) or type(error).__name__),
        "certificate": CERTIFICATE,
        # A server that wants a certificate may hang up before we have read its message.
        "other_port": f"\nPerhaps it wants a certificate of yours: {CERTIFICATE}"
        if node.ssl_options
        else f"\n{WRONG_PORT}",
        "start": f"\nStart one with:  {start_rabbitmq()}" if node.host in LOCAL_HOSTS else "",
        "trust": "If an authority of your own has signed it, say so:  "
        + set_variable("SSL_CERT_FILE", "AUTHORITY.pem")
        + MACOS_CERTIFICATES,
    }
