"""Error messages: what went wrong with RabbitMQ, and how to fix it. No hint deletes data or takes rights away."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pika

from task_queue.exceptions import QueueError
from task_queue.rabbitmq.queues import LONGEST_TASK
from task_queue.settings import ConnectionSettings, address
from task_queue.terminal.text import printable
from task_queue.windows import WINDOWS

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
DOCKER = "docker run -d --name rabbitmq --hostname rabbitmq -p 5672:5672 -p 15672:15672 rabbitmq:4-management"
START = f"{DOCKER}  (the next time: docker start rabbitmq)" if WINDOWS else "python3 tools/rabbitmq.py"
WITHOUT_A_WORD = QueueError("")  # a reason to drop a connection that is not told
CANCELLED = (
    "RabbitMQ cancelled this worker's subscription: its queue was deleted, or its task took longer than --ack-timeout."
)

# A pattern for the innermost exception, our message, and whether it is final: a refusal that trying again can't change.
# The first pattern that fits counts.
MESSAGES: list[tuple[str, str, bool]] = [
    ("^gaierror|^Unicode", "No machine named {host} is known: check the host in --url or AMQP_URL.{origin}", False),
    ("Address family", "No IPv6 here, so {at} can't be reached ({why}): write 127.0.0.1, or the like, as host.", False),
    ("^ConnectionRefused", "Nothing listens at {at}: is RabbitMQ running there?{origin}{start}", False),
    (
        "^SSLCert.*mismatch",
        "The certificate of {at} is for another name: {why}\nWrite a name that it has as the host.",
        False,
    ),
    (
        "^SSLCert",
        "The certificate of {at} is not accepted: {why}\n"
        "If an authority of your own has signed it, name its file in the environment variable SSL_CERT_FILE.",
        False,
    ),
    (
        "(?i)^SSL|certificate.required",
        "No TLS with {at} ({why}).\nIs that its TLS port? Does it want a certificate of yours, as docs/operations.md "
        "shows it? amqp:// is without TLS.",
        False,
    ),
    (
        r"^\w*[Tt]imeout|Timeout while",
        "{at} does not answer: a firewall in between, or a RabbitMQ that hangs?{origin}",
        False,
    ),
    (
        r"^Incompatible|^(Stream|ConnectionReset).* port 1567[12]$",
        "{at} ended the connection without a word of AMQP.\nIs it a TLS port, which needs amqps:// and perhaps a "
        "certificate? Or the admin panel's? AMQP has another one, 5672. Or is RabbitMQ still starting?",
        False,
    ),
    (
        r"\(403\).*Login was refused",
        "RabbitMQ at {at} refused user {user} with this password: check both in --url or AMQP_URL.{guest}\n"
        "Or set another password on RabbitMQ's machine:  rabbitmqctl change_password USER PASSWORD",
        True,
    ),
    (
        r"\(403\)",
        "User {user} may not do this ({why}).\n"
        "docs/operations.md has the rights that it needs; --passive uses a queue that is there, and needs fewer.",
        True,
    ),
    (
        r"\(530\).*vhost .*not found",
        "RabbitMQ at {at} has no virtual host {vhost}.\nIn a URL, / is written /%2F. "
        "Another one is added on RabbitMQ's machine:  rabbitmqctl add_vhost NAME",
        True,
    ),
    (
        r"\(530\)",
        "RabbitMQ at {at} does not let user {user} into virtual host {vhost} ({why}).\n"
        "docs/operations.md has the rights that it needs.",
        True,
    ),
    (
        r"\(406\).*inequivalent",
        "Queue {queue} has other settings ({why}).\nTake another one with --queue NAME, or use it as it is: --passive",
        True,
    ),
    (
        r"\(406\).*acknowledgement",
        "RabbitMQ waits no longer for an acknowledgement ({why}).\n"
        f"Give tasks more time in rabbitmq.conf:  consumer_timeout = {LONGEST_TASK}  (docs/versions.md has other ways)",
        False,
    ),
    (
        r"\(404\).*no queue",
        "There is no queue {queue}, and with --passive or --retry-dead-letters it is not declared here.",
        False,
    ),
    (r"\(\d{3}\)", "RabbitMQ at {at} closed the connection ({why}).", False),
    ("", "The connection to RabbitMQ at {at} was lost ({why}).", False),
]


def in_words(error: BaseException, node: pika.URLParameters, settings: ConnectionSettings) -> tuple[str, bool]:
    """Say what went wrong and how to fix it; and whether it is final, so that trying again can't help.

    Args:
        error: pika's, or a QueueError.
        node: where we wanted to connect.
        settings: the queue's name, and whether AMQP_URL has said where RabbitMQ is.
    """
    error = root_cause(error)
    if isinstance(error, QueueError):
        return str(error), False
    names = f"{type(error).__name__} {error!r} port {node.port}"
    sentence, is_final = next((words, final) for pattern, words, final in MESSAGES if re.search(pattern, names))
    # RabbitMQ's own words, which only some of pika's exceptions have in their text: (403) 'ACCESS_REFUSED - ...'
    reply = re.search(r"\(\d{3}\) (['\"])(.*?)\1['\",)]*$", repr(error))
    named = re.search(r"(?:for|no|to) queue '(.*?)' in vhost", repr(error))
    user, is_local = getattr(node.credentials, "username", ""), node.host in LOCAL_HOSTS
    facts = {
        "host": node.host,
        "at": address(node),
        "user": user,
        "vhost": node.virtual_host,
        "queue": named[1] if named else settings.queue,
        "why": reply[2].replace("\\'", "'") if reply else str(error) or type(error).__name__,
    }
    start = f"\nStart one with:  {START}" if is_local and node.port == 5672 else ""
    origin = " (The address is that of AMQP_URL.)" if settings.is_from_environment else ""
    guest = " (guest may log in on the same machine only.)" if user == "guest" and not is_local else ""
    safe = {name: printable(fact) for name, fact in facts.items()}
    return sentence.format(start=start, guest=guest, origin=origin, **safe), is_final


@contextlib.contextmanager
def limits_in_words() -> Iterator[None]:
    """Raise a QueueError if the machine has no descriptor or no thread left for the block."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise QueueError(f"No connection can be made ({error}): is a limit of this machine reached?") from None


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost of the exceptions that pika wraps around each other when it can't connect."""
    inner = [*error.args[:1], getattr(error, "exception", None), *getattr(error, "exceptions", [])]
    causes = [cause for cause in inner if isinstance(cause, BaseException)]
    return root_cause(causes[-1]) if causes else error


def largest_size(error: BaseException) -> int | None:
    """Return how many bytes RabbitMQ takes in one message, if it closed the channel because of a larger one."""
    told = re.search(r"message size \d+ is larger than \D*(\d+)", str(error))
    return int(told[1]) if told else None
