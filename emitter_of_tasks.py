#!/usr/bin/env python3
"""Sends tasks to a RabbitMQ queue, and reports each as sent once RabbitMQ has confirmed that it is stored.

    emitter_of_tasks.py First task.           one task made of the words; each dot is a second of work
    emitter_of_tasks.py --file tasks.csv      one task per row (other files: per line); - is standard input
    some-command | emitter_of_tasks.py        one task per line
    emitter_of_tasks.py                       asks for one task after another
    emitter_of_tasks.py --retry-dead-letters  moves the tasks that failed too often back to the queue

Exit status: 0 all tasks confirmed; 1 some not; 2 wrong usage; 130 Ctrl+C before all were confirmed.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl+C during the imports, either
    gc.disable()  # until run(): the imports leave no garbage, and looking for it takes an eighth of a short run

import argparse
import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator

from task_queue import Failure, InputError, outbox
from task_queue.admin_panel import offer_panel
from task_queue.dead_letters import DeadLetters
from task_queue.event_log import EventLog
from task_queue.message import Message, new_message
from task_queue.publisher import Publisher
from task_queue.queues import dead_letters_of
from task_queue.report import Report
from task_queue.script import run
from task_queue.settings import PATIENCE, add_settings, default_name, not_empty, settings_for
from task_queue.signals import Signals
from task_queue.sources import Source, typed_tasks
from task_queue.terminal import complain, is_terminal, say, tell
from task_queue.text import counted

LAST_CONFIRMS = 1.0  # seconds to wait for the last publisher confirms after Ctrl+C


def settings() -> argparse.Namespace:
    """Return the options given on the command line."""
    parser = argparse.ArgumentParser(
        description="Send tasks to a RabbitMQ queue, and wait until RabbitMQ has confirmed them.",
        epilog="Without words and --file, tasks are read from standard input; at a terminal you are asked for them.",
    )
    flag = parser.add_argument
    flag("words", nargs="*", metavar="WORD", help="the words of one task")
    add_settings(parser)
    flag("--file", type=not_empty, help="read one task per row (.csv) or per line (other files); - is standard input")
    flag("--retry-dead-letters", action="store_true", help="move every dead letter back to the queue")
    flag("--verbose", action="store_true", help="also print each task of a file or pipe")
    admin_help = "open (or do not open) RabbitMQ's admin panel, without asking"
    flag("--admin", action=argparse.BooleanOptionalAction, help=admin_help)
    flag("--admin-url", type=not_empty, metavar="URL", help="the panel's address (default: http://HOST:15672/#/queues)")
    chosen = parser.parse_args()
    if bool(chosen.words) + bool(chosen.file) + chosen.retry_dead_letters > 1:
        parser.error("give either words, or --file, or --retry-dead-letters")
    if chosen.retry_dead_letters and chosen.passive:
        parser.error("--retry-dead-letters declares the queue of the dead letters, so it can't be --passive")
    chosen.task = " ".join(chosen.words)
    if chosen.words and not chosen.task.strip():
        parser.error("the task is empty")
    if re.search("[\ud800-\udfff]", chosen.task):  # how Python represents bytes that are not text
        parser.error("the task is not text in this terminal's encoding")
    chosen.asks = is_terminal(sys.stdin) and not (chosen.task or chosen.file or chosen.retry_dead_letters)
    if chosen.admin is None and not (chosen.asks and is_terminal(sys.stdout)):
        chosen.admin = False
    return chosen


def main() -> int:
    """Run the emitter and return its exit status."""
    chosen = settings()
    patience = float("inf") if chosen.asks else PATIENCE
    where = settings_for(chosen.url, chosen.queue, default_name("emitter"), patience, chosen.passive)
    log = EventLog(chosen.log_file, where.name)
    is_bulk = not (chosen.asks or chosen.task or chosen.retry_dead_letters)
    source = Source(chosen.file, log.descriptor) if is_bulk else None
    offer = functools.partial(offer_panel, chosen.admin, chosen.admin_url, where.nodes[0])
    with Signals() as signals:
        if chosen.retry_dead_letters:
            return retry(DeadLetters(where), offer, signals)
        report = Report(log, source, chosen.verbose)
        publisher = Publisher(where, report.settled)
        if source is not None:
            tasks = source.tasks()
        else:
            tasks = typed_tasks(where.queue) if chosen.asks else iter([new_message(chosen.task)])
        return emit(preceded_by(offer, tasks), publisher, report, signals, wait_for_each=chosen.asks)


def preceded_by(offer: Callable[[], object], tasks: Iterator[Message]) -> Iterator[Message]:
    """Offer the admin panel, then yield the tasks. send() asks for the first one only after it has connected."""
    try:
        offer()
        yield from tasks
    except EOFError:  # the input has ended: no answer, and no task
        say("")


def emit(tasks: Iterator[Message], publisher: Publisher, report: Report, signals: Signals, wait_for_each: bool) -> int:
    """Send the tasks, report the result, and return the exit status."""
    has_failed = is_cut_short = True
    try:
        with contextlib.closing(publisher.connection):
            is_cut_short = not send(tasks, publisher, signals, wait_for_each)
        has_failed = False
    except Failure as failure:
        tell(failure)
    except MemoryError:
        complain(" [!] This needs more memory than there is.")
    outbox.flush()
    publisher.tell_settled()  # what was confirmed while we closed the connection
    is_cut_short = is_cut_short or bool(publisher.pending())
    status = 1 if has_failed else 130 if is_cut_short else int(report.refused > 0)
    if status == 0 or report.confirmed or publisher.pending():
        report.total()
        if is_cut_short:
            report.left(publisher)
    return status


def send(tasks: Iterator[Message], publisher: Publisher, signals: Signals, wait_for_each: bool) -> bool:
    """Connect, read, publish, and wait until each task is confirmed or refused, or a signal comes.

    Return whether all were read; what is typed at a prompt is read at once.
    """
    is_all_read = wait_for_each
    try:
        with signals.interruptible():
            publisher.connection.open()
            try:
                for message in tasks:
                    publisher.publish(message)
                    if wait_for_each:
                        if publisher.connection.channel is None:
                            say(" [*] RabbitMQ is away. The task is sent when it is back.")
                        publisher.wait()
            except InputError:
                publisher.wait()
                raise
            is_all_read = True
            publisher.wait()
    except KeyboardInterrupt:
        signals.leave()
        say("")  # behind the ^C that a terminal shows
        publisher.wait(seconds=LAST_CONFIRMS)
    return is_all_read


def retry(letters: DeadLetters, offer: Callable[[], object], signals: Signals) -> int:
    """Have RabbitMQ move the dead letters back, say how many, and return the exit status."""
    status, queue = 0, letters.connection.queue
    try:
        with contextlib.closing(letters.connection), signals.interruptible():
            letters.connection.open()
            offer()
            letters.move()
    except KeyboardInterrupt:
        say("")
        status = 130
    finally:
        outbox.flush()
        if letters.total == 0:
            say(f" [*] No dead letters in {dead_letters_of(queue)}.")
        elif letters.total is not None:
            say(f" [x] Moved {counted(letters.moved, 'dead letter')} back to queue {queue}.")
    return status


if __name__ == "__main__":
    run(main)
