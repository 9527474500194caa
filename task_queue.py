"""What the emitter and the worker must agree on: settings, queues, the connection, and words for errors.

One thread at a time drives pika's I/O loop. The main thread drives it while it waits for RabbitMQ; while the main
thread is elsewhere (a task, a person at a prompt, a slow pipe) the keeper thread does, so that heartbeats go out,
confirms come in, and a lost connection is noticed and made again.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TextIO

try:
    import pika
    import pika.exceptions
    from pika.adapters.select_connection import IOLoop
    from pika.channel import Channel
except ModuleNotFoundError:
    raise SystemExit(
        " [!] The Python package pika is missing. Install it with:  python3 -m pip install -r requirements.txt\n"
        "After tools/demo.py it is enough to say:  . .venv/bin/activate"
    ) from None

DEFAULT_URL = "amqp://guest:guest@localhost:5672/%2F"
DEFAULT_QUEUE = "tasks"
# Not -1, which RabbitMQ 4 takes for no limit, but 3.x for one that is passed already: what is given back is gone.
NO_DELIVERY_LIMIT = 1_000_000_000
DELIVERY_LIMIT = 20  # failed tries; the default of RabbitMQ 4, which 3.x has to be told

KEEPER_DELAY = 0.02  # seconds the main thread may be elsewhere before the keeper drives; shorter tasks never wake it
GATHERED_BYTES = 64 * 1024  # until pika gets them; of a piece that is sent in part, it copies the rest each time
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds between attempts to reconnect
STUCK_AFTER = 10.0  # seconds; more than an end in good order takes, with a command that is slow to end
CLOSE_WITHIN = 3.0  # seconds; a broker that is blocked or frozen never answers connection.close
SHOWN_CHARACTERS = 500  # of a task's text, on the terminal
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

# pika logs what it also raises, with tracebacks; without a handler Python would print that on the terminal.
logging.getLogger("pika").addHandler(logging.NullHandler())


class QueueError(Exception):
    """RabbitMQ can't be used as asked; the text says why, and what mends it."""

    exit_code = 1


class SettingsError(QueueError):
    """A flag or a variable of the environment makes no sense; the text says which and why."""

    exit_code = 2


# ---- Settings


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the flags of both scripts. Their defaults are read elsewhere, so that `--help` shows no password."""
    url_help = (
        "where RabbitMQ is; several nodes of a cluster are tried in turn; amqps:// is TLS "
        f"(default: AMQP_URL of the environment, else {DEFAULT_URL})"
    )
    parser.add_argument("--url", metavar="URL[,URL...]", help=url_help.replace("%", "%%"))
    queue_help = f"(default: TASK_QUEUE of the environment, else {DEFAULT_QUEUE})"
    parser.add_argument("--queue", metavar="NAME", help=queue_help)
    parser.add_argument("--log-file", metavar="FILE", help="append one JSON object a line for each event")


def nodes_in(urls: str | None) -> list[pika.URLParameters]:
    """Return pika's parameters for each of the comma-separated URLs, or those of AMQP_URL, or for this machine.

    Raises:
        SettingsError: one is no AMQP URL. The text holds no part of it, which may be a password.
    """
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
    """Return the name, or that in TASK_QUEUE, or `tasks`.

    Raises:
        SettingsError: RabbitMQ would not take it.
    """
    name = name or os.environ.get("TASK_QUEUE") or DEFAULT_QUEUE
    if len(os.fsencode(dead_letters_of(name))) > 255 or name.startswith("amq.") or not name.isprintable():
        raise SettingsError("--queue or TASK_QUEUE: a queue's name is printable, short, and does not begin with amq.")
    return name


def default_name(role: str) -> str:
    """Return a name that tells this process from its like on every machine: ROLE-HOST-PID."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}"


# ---- Queues


def dead_letters_of(queue: str) -> str:
    """Return the name of the queue for tasks that failed too often."""
    return f"{queue}.dead-letters"


def declare_queues(channel: Channel, queue: str, then: Callable[[], None]) -> None:
    """Declare the queue and its dead letters, and call back. Declaring what is there already changes nothing.

    Quorum queues, because they count failed tries: a task that kills every worker ends in the dead letters instead
    of going round for ever. Source: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_letters_of(queue),
        # The queue keeps a task until the dead letters have confirmed it. RabbitMQ wants reject-publish for that.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    kept: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT}
    channel.queue_declare(dead_letters_of(queue), durable=True, arguments=kept, callback=lambda _: None)
    # pika sends it when the first is answered.
    channel.queue_declare(queue, durable=True, arguments=arguments, callback=lambda _: then())


# ---- The connection


class GatheringConnection(pika.SelectConnection):
    """pika's connection, which gathers what is written until the loop's next step, and sends it in one piece.

    pika alone makes three writes of a task. Should a later pika not call the method that is overridden here, nothing
    is gathered, and all else stays as it is.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._gathered = bytearray()
        super().__init__(*arguments, **named)

    def _adapter_emit_data(self, data: bytes) -> None:
        self._gathered += data
        if len(self._gathered) > GATHERED_BYTES:
            self.send_gathered()

    def send_gathered(self) -> None:
        """Give pika what was gathered, to send it in one piece."""
        if self._gathered:
            super()._adapter_emit_data(bytes(self._gathered))  # type: ignore[misc]  # not in the stubs
            self._gathered.clear()

    def abort(self) -> None:
        """Close the socket without RabbitMQ's answer."""
        self._terminate_stream(TimeoutError())  # type: ignore[attr-defined]  # not in the stubs


class Connection:
    """A connection to RabbitMQ that stays alive while its owner is busy, and is made again when it is lost.

    Call pika only inside `with connection:`, which takes pika's loop back from the keeper thread, and holds Ctrl+C
    back until pika is in good order again. `wait()` drives the loop meanwhile.

    Args:
        nodes: where RabbitMQ is; the nodes of a cluster are tried in turn.
        queue: the queue to declare, with its dead letters, on every new connection.
        name: the connection's name in the admin panel.
        on_ready: called on every new connection, when the queues are declared, with the channel.
        on_lost: called when a connection is lost, with the reason in words. Another one will be made.
        background: called in the keeper thread, outside of pika, after each step of the loop that it drove.
        is_worker: the owner watches `stop_asked`, which Ctrl+C and SIGTERM set, and is interrupted by Ctrl+C only
            while it has `interruptible` set. Otherwise either interrupts it, once.
    """

    is_script = False  # set by run()

    def __init__(
        self,
        nodes: list[pika.URLParameters],
        queue: str,
        name: str,
        on_ready: Callable[[Channel], None],
        on_lost: Callable[[str], None],
        background: Callable[[], None] = lambda: None,
        is_worker: bool = False,
    ) -> None:
        for node in nodes:
            node.client_properties = {"connection_name": name}
        self.queue = queue
        self.channel: Channel | None = None  # None while there is no connection
        self.stop_asked = False
        self._nodes, self._on_ready, self._on_lost, self._background = nodes, on_ready, on_lost, background
        self.interruptible = not is_worker
        self._is_worker = is_worker

        self._pika: GatheringConnection | None = None
        self._attempts = 0
        self._pause = FIRST_PAUSE
        self._was_ready = False
        self._said = ""  # why there is no connection
        self._refusals: list[str] = []  # why no node could be used so far
        self._why_lost: Exception | None = None  # if it was the channel's end that ended the connection
        self._failure: BaseException | None = None  # for the main thread to raise, whichever thread met it

        self._loop = IOLoop()
        self._loop.activate_poller()
        self._lock = threading.Lock()  # of the thread that drives the loop or calls pika
        self._keeper = threading.Thread(target=self._keep_alive, name="keeper", daemon=True)
        self._main_left = threading.Event()  # the main thread has been in pika and left it
        self._main_waits = False  # the main thread drives the loop
        self._main_wants = False  # the main thread wants the lock
        self._steps = 0  # of the loop
        self._closing = threading.Event()
        # A byte here ends a poll: Python sends one at each signal, and the main thread one to the keeper.
        self._bell, self._bell_push = socket.socketpair()
        self._bell.setblocking(False)
        self._bell_push.setblocking(False)
        self._loop.add_handler(self._bell.fileno(), self._silence_bell, IOLoop.READ)
        self._in_pika = False  # the main thread is, and must not be interrupted
        self._interrupted = False  # and was
        self._interrupted_at = float("inf")  # for the first time
        self._old_handlers: dict[int, Any] = {}
        self._pid = os.getpid()

    # What the main thread calls.

    def open(self) -> None:
        """Connect to the first node that takes us, and declare the queues.

        Raises:
            QueueError: none did.
        """
        if threading.current_thread() is threading.main_thread():
            self._catch_signals()
        self._keeper.start()
        with self:
            self._connect()
            self.wait(lambda: self.channel or self.stop_asked)

    def wait(self, until: Callable[[], object], seconds: float = float("inf")) -> None:
        """Drive the loop until `until()` is true, the time is up, or Ctrl+C was pressed. Only inside `with`.

        Raises:
            QueueError: the connection is lost and can't be made again as things are.
        """
        deadline = time.monotonic() + seconds
        if seconds != float("inf"):
            self._loop.call_later(seconds, lambda: None)
        self._main_waits = True
        try:
            while not until() and not self._interrupted and time.monotonic() < deadline:
                self.check()
                self._step()
        finally:
            self._main_waits = False

    def check(self) -> None:
        """Raise what keeps the connection from being made again, if anything does.

        Raises:
            QueueError: it is lost and can't be made again as things are.
        """
        if self._failure is not None:
            raise self._failure

    def flush(self) -> None:
        """Send what pika was given since the last step, or wait for news if it was given nothing. Only inside `with`.

        What has come meanwhile is taken in, which may be the connection's end.
        """
        self._step()

    def interrupt_if_asked(self) -> None:
        """Raise the Ctrl+C that was held back, if there is one and it may interrupt now."""
        if self._interrupted and self.interruptible:
            self._interrupted = False
            self.interruptible = self._is_worker  # which decides for itself; an emitter is interrupted once
            raise KeyboardInterrupt

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Have the loop call back in a while. Only inside `with` or a callback."""
        self._loop.call_later(seconds, callback)

    def lose(self, why: Exception) -> None:
        """Give this connection up and make a new one: the one way back from every trouble. Only inside a callback.

        Args:
            why: told to the person, unless its text is empty.
        """
        self.channel = None
        if self._pika is not None and self._pika.is_open:
            self._why_lost = why
            self._pika.close()

    def close(self) -> None:
        """Send what is still to be sent, such as the last acknowledgement, and close."""
        self._closing.set()
        self.interruptible = self._interrupted = False
        self._failure = None
        # pika, too, closes what is not open yet, but not without an AssertionError.
        with self, contextlib.suppress(AssertionError):
            if self._pika is not None:
                if not (self._pika.is_closing or self._pika.is_closed):
                    self._pika.close()
                self.wait(lambda: self._pika is None, CLOSE_WITHIN)
            if self._pika is not None:  # or its socket would stay open
                self._pika.abort()
                self.wait(lambda: self._pika is None, CLOSE_WITHIN)
        if self._keeper.is_alive():
            self._main_left.set()
            self._keeper.join()
        if self._old_handlers:
            signal.set_wakeup_fd(self._old_wakeup)
        if not self.is_script:  # which ends now, and has nothing left for another Ctrl+C to interrupt
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)
        self._loop.close()
        self._bell.close()
        self._bell_push.close()

    def __enter__(self) -> Connection:
        self._in_pika = True
        if not self._lock.acquire(blocking=False):
            self._main_wants = True
            self._bell_push.send(b"\0")
            self._lock.acquire()
            self._main_wants = False
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._in_pika = False
        if not self._main_left.is_set():
            self._main_left.set()
        self.interrupt_if_asked()

    def _catch_signals(self) -> None:
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has SIGHUP ignored
                self._old_handlers[number] = signal.signal(number, self._on_signal)
        self._old_wakeup = signal.set_wakeup_fd(self._bell_push.fileno(), warn_on_full_buffer=False)

    def _on_signal(self, number: int, _frame: object) -> None:
        if os.getpid() != self._pid:  # a process forked by a task
            signal.signal(number, self._old_handlers[number])
            os.kill(os.getpid(), number)
            return
        finish_first = number == signal.SIGTERM and self._is_worker and not self.stop_asked
        self.stop_asked = True
        if finish_first:
            return
        # What should end but does not, as when it writes to a pipe that nobody reads, ends when asked once more.
        self._interrupted_at = min(self._interrupted_at, time.monotonic())
        if time.monotonic() - self._interrupted_at > STUCK_AFTER:
            os._exit(130)
        self._interrupted = not self._closing.is_set() and (self.interruptible or self._is_worker)
        if not self._in_pika:
            self.interrupt_if_asked()

    # Who drives the loop.

    def _step(self) -> None:
        # The steps of which pika's BlockingConnection is made.
        self._steps += 1
        if self._pika is not None:
            self._pika.send_gathered()
        self._loop.poll()
        self._loop.process_timeouts()

    def _silence_bell(self, *_: object) -> None:
        self._bell.recv(4096)

    def _keep_alive(self) -> None:
        try:
            while not self._closing.is_set() and self._failure is None:
                self._main_left.wait()
                steps = self._steps
                self._closing.wait(KEEPER_DELAY)
                if self._main_waits:
                    self._main_left.clear()
                    if not self._main_waits:  # it left between these two lines
                        self._main_left.set()
                elif self._steps == steps:
                    self._drive_until_main_is_back()
        except BaseException as error:
            self._failure = error

    def _drive_until_main_is_back(self) -> None:
        # Never waits for the lock: when the main thread has it, the main thread is back.
        while not self._closing.is_set() and self._lock.acquire(blocking=False):
            try:
                if self._main_wants or self._failure is not None:
                    return
                self._step()
            finally:
                self._lock.release()
            self._background()

    # The life of a connection, as pika tells it to the thread that drives the loop.

    def _connect(self) -> None:
        self._node = self._nodes[self._attempts % len(self._nodes)]
        self._attempts += 1
        self._pika = GatheringConnection(
            self._node,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_gone,
            on_close_callback=self._on_gone,
            custom_ioloop=self._loop,
        )

    def _on_open(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(
            lambda _, frame: complain(
                f" [*] RabbitMQ takes no tasks for now: {printable(frame.method.reason)}. Waiting ..."
            )
        )
        connection.add_on_connection_unblocked_callback(lambda *_: complain(" [*] RabbitMQ takes tasks again."))
        channel = connection.channel(on_open_callback=self._on_channel_open)
        channel.add_on_close_callback(lambda _, why: self.lose(why))  # also when RabbitMQ does not open it

    def _on_channel_open(self, channel: Channel) -> None:
        declare_queues(channel, self.queue, then=lambda: self._on_declared(channel))

    def _on_declared(self, channel: Channel) -> None:
        self.channel = channel
        self._was_ready = True
        self._pause = FIRST_PAUSE
        self._refusals.clear()
        if self._said:
            complain(" [*] Connected again.")
            self._said = ""
        self._on_ready(channel)

    def _on_gone(self, _connection: Any, why: BaseException) -> None:
        self.channel = self._pika = None
        if self._closing.is_set():
            return
        words, is_final = in_words(self._why_lost or why, self._node, self.queue)
        self._why_lost = None
        if is_final or not self._was_ready:
            self._refusals.append(words)
            if len(self._refusals) == len(self._nodes):
                self._give_up()
                return
        else:
            self._refusals.clear()
        if not self._was_ready:
            self._connect()
            return
        self._on_lost(words)
        if words != self._said:
            complain(f" [!] {words}\n [*] Reconnecting ...")
            self._said = words
        # With jitter, so that a hundred workers do not all come back in the same moment.
        self._loop.call_later(self._pause * (0.5 + os.urandom(1)[0] / 512), self._connect)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _give_up(self) -> None:
        self._failure = QueueError("\n".join(dict.fromkeys(self._refusals)))
        if threading.current_thread() is self._keeper:  # the main thread may take long to hear of it
            complain(f" [!] {self._failure}")


# ---- Words for errors


# What pika says (of the innermost exception), what we say, and whether it is of no use to try again.
WORDS: list[tuple[str, str, bool]] = [
    ("^gaierror", "No machine named {host} is known: check the host in --url or AMQP_URL.", False),
    ("^ConnectionRefused", "Nothing listens at {at}: is RabbitMQ running there?{start}", False),
    ("^SSLCert.*(issuer|self-signed)", "The certificate of {at} is not accepted: {why}\n{trust}", False),
    ("^SSLCert", "The certificate of {at} is not accepted: {why}", False),
    ("^SSL", "No TLS with {at} ({why}): is that its TLS port? amqp:// is without TLS.", False),
    (r"^\w*[Tt]imeout|Timeout while", "{at} does not answer: a firewall in between, or a RabbitMQ that hangs?", False),
    ("^Incompatible", "{at} ended the connection without a word of AMQP. Is it a TLS port? That needs amqps://", False),
    (r"\(403\).*Login was refused", "RabbitMQ at {at} refused user {user} with this password.\n{login}", True),
    (r"\(403\)", "User {user} may not do this ({why}).\n{allow}", True),
    (r"\(530\).*not found", "RabbitMQ at {at} has no virtual host {vhost}.\n{add_vhost}", True),
    (r"\(530\).* limit ", "RabbitMQ at {at} takes no more connections ({why}).", False),
    (r"\(530\)", "RabbitMQ at {at} lets user {user} not into virtual host {vhost} ({why}).\n{allow}", True),
    (r"\(406\).*inequivalent", "Queue {queue} has other settings ({why}).\n{delete}", True),
    (r"\(406\).*larger than", "RabbitMQ refuses a task that is too large ({why}).", False),
    (r"\(406\).*acknowledgement", "RabbitMQ waits no longer for an acknowledgement: see --ack-timeout ({why}).", False),
    (r"\(\d{3}\)", "RabbitMQ at {at} closed the connection ({why}).", False),
    ("", "The connection to RabbitMQ at {at} was lost ({why}).", False),
]


def in_words(error: BaseException, node: pika.URLParameters, queue: str) -> tuple[str, bool]:
    """Say what went wrong and what mends it; and whether it is final, so that trying again is of no use."""
    error = root_cause(error)
    if isinstance(error, QueueError):
        return str(error), False
    # RabbitMQ's own words, which pika puts into the text of some of its exceptions only: (403) 'ACCESS_REFUSED - ...'
    reply = re.search(r"\(\d{3}\) (['\"])(.*?)\1['\",)]*$", repr(error))
    user, vhost = printable(getattr(node.credentials, "username", "")), printable(node.virtual_host)
    refused = re.search(r"for queue '(.*?)' in vhost", repr(error))
    queue = refused[1] if refused else queue
    is_local = node.host in ("localhost", "127.0.0.1", "::1")
    login = f"Set the password with:  rabbitmqctl change_password {shlex.quote(user)} PASSWORD"
    if user == "guest" and not is_local:
        login = "guest may log in on the same machine only. Add a user:  rabbitmqctl add_user NAME PASSWORD"
    facts = {
        "host": printable(node.host),
        "at": printable(f"{node.host}:{node.port}"),
        "user": user,
        "vhost": vhost,
        "queue": queue,
        "why": printable(reply[2].replace("\\'", "'") if reply else str(error) or type(error).__name__),
        "login": login,
        "start": "\nStart one with:  python3 tools/rabbitmq.py" if is_local else "",
        "allow": f"Allow it with:  rabbitmqctl set_permissions -p '{vhost}' {shlex.quote(user)} '.*' '.*' '.*'",
        "trust": "If an authority of your own has signed it, say so:  export SSL_CERT_FILE=AUTHORITY.pem",
        "add_vhost": f"Add it with:  rabbitmqctl add_vhost '{vhost}'",
        "delete": "Take another one with --queue NAME, or, if nothing in it is needed, delete it:  "
        f"rabbitmqctl -p '{vhost}' delete_queue {shlex.quote(queue)}",
    }
    names = " ".join([type(error).__name__, repr(error)])
    sentence, is_final = next((words, final) for pattern, words, final in WORDS if re.search(pattern, names))
    return sentence.format(**facts), is_final


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost of the exceptions that pika wraps around each other when it can't connect."""
    inner = [*error.args[:1], getattr(error, "exception", None), *getattr(error, "exceptions", [])]
    causes = [cause for cause in inner if isinstance(cause, BaseException)]
    return root_cause(causes[-1]) if causes else error


# ---- What is shown and logged


def say(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print a line at once. When that is impossible (`| head -1`, a full disk), go on in silence: tasks matter more."""
    stream = stream or sys.stdout
    if stream is None:  # as in `>&-`
        return
    encoding = stream.encoding or "utf-8"
    try:
        # An escape for what the terminal's encoding can't show.
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + end)
        stream.flush()
    except (ValueError, BlockingIOError):  # a closed file; a pipe that takes no more for now
        pass
    except OSError:  # and Python would try again at its end, and make an error of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(text: str) -> None:
    """Print a line on standard error at once."""
    say(text, sys.stderr)


def run(main: Callable[[], int]) -> None:
    """Run a script and end with the exit status it returns; Ctrl+C is never a traceback."""
    gc.freeze()  # not even at the end is what was imported worth a look
    gc.enable()  # disabled in the scripts' first lines
    Connection.is_script = True
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main()
    except KeyboardInterrupt:
        say("")
        status = 130
    for number in ENDING_SIGNALS:  # the exit status is settled
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


def text_of(body: bytes) -> str:
    """Return a task's text, with escapes for what is not UTF-8 in it."""
    return body.decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Return the text fit for a terminal: control characters as escapes, and cut where it is very long."""
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[:SHOWN_CHARACTERS]} ... ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class EventLog:
    """Appends one JSON object a line for each event to a file that several processes may share.

    Args:
        path: the file; None for no log.
        name: of this process, in each record.

    Raises:
        SettingsError: the file can't be opened.
    """

    def __init__(self, path: str | None, name: str) -> None:
        self._name = name
        self._noted: list[dict[str, object]] = []
        if path:
            import json  # only here: most runs keep no log, and start faster without it

            self._encode = json.JSONEncoder(default=str).encode
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666) if path else None
        except OSError as error:
            raise SettingsError(f"The log file {printable(str(path))} can't be opened: {error.strerror}.") from None

    def note(self, event: str, message_id: str | None, task: str, **more: object) -> None:
        """Note an event, for write() to write down."""
        if self._file is not None:
            self._noted.append({"event": event, "name": self._name, "message_id": message_id, "task": task, **more})

    def write(self) -> None:
        """Write down what was noted: whole lines in one write, so that those of several processes never mix."""
        if self._file is None or not self._noted:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        lines = "".join(self._encode({"time": now, **event}) + "\n" for event in self._noted).encode()
        self._noted.clear()
        try:
            while lines:  # once, unless the disk is nearly full
                lines = lines[os.write(self._file, lines) :]
        except OSError as error:
            complain(f" [!] The log file can't be written: {error.strerror}. The tasks go on without it.")
            self.close()

    def close(self) -> None:
        """Close the file; records are dropped from now on."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
