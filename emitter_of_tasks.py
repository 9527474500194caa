#!/usr/bin/env python3
"""Sends tasks to a RabbitMQ queue, and reports each as sent once RabbitMQ has confirmed that it is stored.

    emitter_of_tasks.py First task.           the words are one task; each dot is a second of work
    emitter_of_tasks.py --file tasks.csv      one task per row; per line of other files; - is standard input
    some-command | emitter_of_tasks.py        one task per line
    emitter_of_tasks.py                       asks for one task after another
    emitter_of_tasks.py --retry-dead-letters  moves the tasks that failed too often back to the queue

Exit status: 0 all tasks confirmed, also after Ctrl+C at the prompt; 1 some not; 2 wrong usage; 130 Ctrl+C or SIGTERM
before the last confirm.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C during the imports must not show a traceback
    gc.disable()  # until run(): it frees nothing during the imports, and takes an eighth of a short run

import argparse
import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator

from task_queue.emitter.admin_panel import offer_panel
from task_queue.emitter.message import Message, new_message
from task_queue.emitter.publisher import Publisher
from task_queue.emitter.retry_dead_letters import DeadLetters
from task_queue.emitter.source import Source, is_csv, typed_tasks
from task_queue.emitter.task_report import Report
from task_queue.event_log import EventLog
from task_queue.exceptions import Failure, InputError
from task_queue.process.run import run
from task_queue.process.shutdown import Shutdown
from task_queue.rabbitmq.queues import dead_letters_of
from task_queue.settings import PATIENCE, connection_settings, default_name, new_parser, not_empty, one_character
from task_queue.terminal.blocked_output import is_terminal
from task_queue.terminal.console import complain, complain_of, finish_background, say
from task_queue.terminal.prompt import is_notebook
from task_queue.terminal.text import counted

LAST_CONFIRMS = 1.0  # seconds to wait for the last publisher confirms after Ctrl+C


def parsed_flags() -> argparse.Namespace:
    """Return the flags given on the command line."""
    parser = new_parser(
        "Send tasks to a RabbitMQ queue, and wait until RabbitMQ has confirmed them.",
        "Without words and --file, tasks are read from standard input; at a terminal you are asked for them.",
    )
    flag = parser.add_argument
    flag("words", nargs="*", metavar="WORD", help="the words of one task")
    flag("--file", type=not_empty, help="read one task per row (.csv) or per line (other files); - is standard input")
    separator_help = "what separates the cells of a .csv file (default: found in its first row); \\t is a tab"
    flag("--separator", type=one_character, metavar="X", help=separator_help)
    flag("--from-line", type=int, metavar="N", help="begin with line N of the file or pipe; 2 skips a header row")
    flag("--retry-dead-letters", action="store_true", help="move every dead letter back to the queue")
    flag("--verbose", action="store_true", help="also print each task of a file or pipe")
    flag("--admin", action=argparse.BooleanOptionalAction, help="open RabbitMQ's admin panel, or not, without asking")
    flag("--admin-url", type=not_empty, metavar="URL", help="the panel's address (default: http://HOST:15672/#/queues)")
    flags = parser.parse_args()
    check(flags, parser)
    is_bulk = not (flags.task or flags.retry_dead_letters)
    flags.asks = is_bulk and not flags.file and (is_terminal(sys.stdin) or is_notebook())
    flags.is_bulk = is_bulk and not flags.asks
    if (flags.from_line and not flags.is_bulk) or (flags.separator and not is_csv(flags.file)):
        parser.error("--from-line is for --file or a pipe, and --separator for a .csv file")
    if flags.admin is None and not (flags.asks and (is_terminal(sys.stdout) or is_notebook())):
        flags.admin = False
    return flags


def check(flags: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with a usage error if the flags do not go together; else join the words to `flags.task`."""
    if bool(flags.words) + bool(flags.file) + flags.retry_dead_letters > 1:
        parser.error("give either words, or --file, or --retry-dead-letters")
    if flags.retry_dead_letters and flags.passive:
        parser.error("--retry-dead-letters declares the queue of the dead letters, so it can't be --passive")
    if flags.from_line is not None and flags.from_line < 1:
        parser.error("--from-line: lines are counted from 1")
    flags.task = " ".join(flags.words)
    if flags.words and not flags.task.strip():
        parser.error("the task is empty")
    if re.search("[\ud800-\udfff]", flags.task):  # Python decodes invalid bytes to surrogates
        parser.error("the task is not text in this terminal's encoding")


def main() -> int:
    """Run the emitter and return its exit status."""
    flags = parsed_flags()
    patience = float("inf") if flags.asks else PATIENCE
    settings = connection_settings(flags.url, flags.queue, default_name("emitter"), patience, flags.passive)
    log = EventLog(flags.log_file, settings.name)
    source = Source(flags.file, log.descriptor, flags.separator, flags.from_line or 1) if flags.is_bulk else None
    offer = functools.partial(offer_panel, flags.admin, flags.admin_url, settings.nodes[0])
    with Shutdown() as shutdown:
        if flags.retry_dead_letters:
            return retry(DeadLetters(settings, shutdown), offer, shutdown)
        report = Report(log, source, flags.verbose)
        publisher = Publisher(settings, shutdown, report.settled)
        if source is not None:
            tasks = source.tasks()
        elif flags.asks:
            tasks = typed_tasks(publisher.connection)
        else:
            tasks = iter([new_message(flags.task)])
        return emit(preceded_by(offer, tasks), publisher, report, shutdown, wait_for_each=flags.asks)


def preceded_by(offer: Callable[[], object], tasks: Iterator[Message]) -> Iterator[Message]:
    """Offer the admin panel, then yield the tasks: only when send() asks for the first one, and so is connected."""
    try:
        offer()
        yield from tasks
    except EOFError:  # end of input, for example by Ctrl+D: no answer, and no task
        say("")


def emit(
    tasks: Iterator[Message], publisher: Publisher, report: Report, shutdown: Shutdown, wait_for_each: bool
) -> int:
    """Send the tasks, report the result, and return the exit status."""
    status, is_all_read = 0, False
    try:
        with contextlib.closing(publisher.connection):
            is_all_read = send(tasks, publisher, shutdown, wait_for_each) or report.has_read_all(publisher.next_line)
    except Failure as failure:
        status = failure.exit_code
        complain_of(failure)
    except MemoryError:
        status = 1
        complain(" [!] This needs more memory than there is.")
    finish_background()
    publisher.report_settled()  # confirms may still have come while the connection was closed
    is_complete = is_all_read and not publisher.pending()
    if is_complete or report.confirmed or publisher.pending():
        report.total()
        if not is_complete:
            report.left(publisher)
    return status or (int(report.refused > 0) if is_complete else 130)


def send(tasks: Iterator[Message], publisher: Publisher, shutdown: Shutdown, wait_for_each: bool) -> bool:
    """Connect, read, publish, and wait until each task is confirmed or refused, or a signal comes.

    Return whether the input was read to its end; at a prompt always True.
    """
    is_all_read = wait_for_each
    try:
        with shutdown.interruptible():
            publisher.connection.open()
            try:
                for message in tasks:
                    publisher.publish(message)
                    if wait_for_each:
                        if publisher.connection.channel is None:
                            say(" [*] RabbitMQ is away. The task is sent when it is back.")
                        publisher.wait_for_confirms()
            except InputError:
                publisher.wait_for_confirms()
                raise
            is_all_read = True
            publisher.wait_for_confirms()
    except KeyboardInterrupt:
        shutdown.ignore_further_signals()
        say("")  # after the ^C that a terminal shows
        publisher.wait_for_confirms(seconds=LAST_CONFIRMS)
    return is_all_read


def retry(letters: DeadLetters, offer: Callable[[], object], shutdown: Shutdown) -> int:
    """Have RabbitMQ move the dead letters back, say how many, also after an error, and return the exit status."""
    status, queue = 0, letters.connection.settings.queue
    try:
        with contextlib.closing(letters.connection), shutdown.interruptible():
            letters.connection.open()
            offer()
            letters.move()
    except KeyboardInterrupt:
        say("")
        status = 130
    finally:
        finish_background()
        if letters.total == 0:
            say(f" [*] No dead letters in {dead_letters_of(queue)}.")
        elif letters.total is not None:
            say(f" [x] Moved {counted(letters.moved, 'dead letter')} back to queue {queue}.")
    return status


if __name__ == "__main__":
    run(main)
