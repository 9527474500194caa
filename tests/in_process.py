"""Scripts in the process of the test itself, which needs a tenth of the time that a process of its own would take."""

import contextlib
import io
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pika
import pika.exceptions
from harness import DEADLINE, Scripts

import emitter_of_tasks
import listening_worker
from listening_worker import listen
from task_queue import Failure
from task_queue.emitter.message import Message, new_message
from task_queue.emitter.publisher import Publisher
from task_queue.process.shutdown import Shutdown
from task_queue.settings import connection_settings


@contextlib.contextmanager
def printed() -> Iterator[io.StringIO]:
    """Collect what is printed in this process, by whichever thread."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield out


def work(scripts: Scripts, perform: Callable[[Any], object], **options: Any) -> list[str]:
    """Run a worker, until the queue is empty if nothing else is asked for, and return its lines."""
    with printed() as out:
        listen(perform, **{**where(scripts), "burst": True, **options})
    return out.getvalue().split("\n")[:-1]  # splitlines() takes control characters out


@contextlib.contextmanager
def working(scripts: Scripts, perform: Callable[[Any], object], **options: Any) -> Iterator[threading.Thread]:
    """Run a worker in a thread until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=listen, args=[perform], kwargs={**where(scripts), "stop": stop, **options})
    with printed():
        thread.start()
        try:
            yield thread
        finally:
            stop.set()
            thread.join()


def said_by(scripts: Scripts, script: str, *arguments: object, **environment: str) -> tuple[object, str, str]:
    """Run a script with these arguments to its end; return its exit status, its output and its errors."""
    main = {"emitter_of_tasks.py": emitter_of_tasks.main, "listening_worker.py": listening_worker.main}[script]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [script, *map(str, arguments)]),
        mock.patch.dict(os.environ, {**scripts.environment, **environment}),
        mock.patch.object(sys, "stdin", io.StringIO()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status: object = main()
        except Failure as failure:  # as run() does, which a script calls with its main()
            status = failure.exit_code
            print(f" [!] {failure}", file=sys.stderr)
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


def where(scripts: Scripts) -> dict[str, Any]:
    """Return the options that the scripts take from their environment."""
    return {"url": scripts.broker.url, "queue": scripts.queue, "log_file": str(scripts.log)}


def put(scripts: Scripts, *bodies: bytes) -> None:
    """Put tasks into the queue, each with an id. If it is not there, a worker declares it."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(scripts.broker.url))) as connection:
        try:
            connection.channel().queue_declare(scripts.queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            work(scripts, print, log_file=None)
        channel = connection.channel()
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish("", scripts.queue, body, pika.BasicProperties(message_id=str(uuid.uuid4())))


class Emitter(Publisher):
    """An emitter's publisher in this process, which is connected; `told` is what it has told of."""

    def __init__(self, url: str) -> None:
        self.told: list[Message] = []
        settings = connection_settings(url, "tasks", "emitter", patience=float("inf"))
        super().__init__(settings, Shutdown(), lambda settled: self.told.extend(message for message, _ in settled))
        self.connection.open()

    def send(self, *tasks: object) -> None:
        for task in tasks:
            self.publish(new_message(str(task)))

    def settle(self) -> None:
        """Wait until all is confirmed."""
        self.wait_for_confirms(seconds=DEADLINE)
        assert self.pending() == []


@contextlib.contextmanager
def emitting(*urls: str) -> Iterator[Emitter]:
    emitter = Emitter(",".join(urls))
    with contextlib.closing(emitter.connection):
        yield emitter
