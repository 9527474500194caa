#!/usr/bin/env python3
"""Takes one task at a time from a RabbitMQ queue, performs it, and acknowledges it.

Run it in two or more terminals and send tasks with emitter_of_tasks.py. A task leaves the queue only when a worker
has finished it, or when it has failed too often. If you stop a worker in the middle of a task, another one gets it.

    listening_worker.py                      work is one second of sleep per dot in the task
    listening_worker.py --run './resize {}'  work is a command; {} becomes the task's text

From Python: `from listening_worker import listen`, then `listen(perform)` with a function `perform(task)`.

Exit status: 0 stopped normally, also by Ctrl+C or SIGTERM; 1 RabbitMQ or the command can't be used; 2 wrong usage.
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
import os
import threading

from task_queue.event_log import EventLog
from task_queue.exceptions import SettingsError, WorkerError
from task_queue.process.run import end_forked_process, open_standard_streams, refuse_second_run, run
from task_queue.process.shutdown import Shutdown
from task_queue.settings import PATIENCE, connection_settings, default_name, new_parser, not_empty
from task_queue.terminal.console import finish_background, say
from task_queue.worker.consumer import Consumer
from task_queue.worker.fake_work import sleeping
from task_queue.worker.function_checks import OnlyBegun, Perform, check_function, check_result
from task_queue.worker.run_command import running
from task_queue.worker.task import Task
from task_queue.worker.task_report import Report

ACK_TIMEOUT_HOURS = 24.0
# Not 0: RabbitMQ would redeliver each task without end. And not more, because the milliseconds must fit in 32 bits.
LEAST_HOURS, MOST_HOURS = 0.001, 1000


def listen(
    perform: Perform,
    *,
    url: str | None = None,
    queue: str | None = None,
    name: str | None = None,
    passive: bool = False,
    burst: bool = False,
    max_tasks: int | None = None,
    ack_timeout: float = ACK_TIMEOUT_HOURS,
    log_file: str | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Take tasks one at a time, perform them, and print what happens, until Ctrl+C or SIGTERM.

    Args:
        perform: called with each Task, in this thread. If it returns, the task is done; if it raises, the task failed.
        url, queue, name, passive, burst, max_tasks, ack_timeout (in hours), log_file: they mean the same as the flags.
        stop: set it in another thread to stop the worker, as SIGTERM does.

    Raises:
        KeyboardInterrupt: after Ctrl+C or SIGHUP, when the task in hand has gone back to the queue.
        SystemExit: after SIGTERM, when the task in hand is done.
        QueueError: RabbitMQ can't be used as asked; the text says why.
        WorkerError: `perform` raised it; the task goes back to the queue.
        TypeError: `perform` is an async or generator function; calling it does not run it.
        RuntimeError: a process that a task has started runs this program again (multiprocessing).
    """
    check_function(perform)
    refuse_second_run()
    open_standard_streams()
    if max_tasks is not None and not (type(max_tasks) is int and max_tasks > 0):
        raise SettingsError("max_tasks must be a whole number, 1 or more.")
    if type(ack_timeout) not in (int, float) or not LEAST_HOURS <= ack_timeout <= MOST_HOURS:
        raise SettingsError("ack_timeout must be a number of hours, from 0.001 to 1,000.")
    patience = PATIENCE if burst or max_tasks else float("inf")
    settings = connection_settings(url, queue, default_name("worker") if name is None else name, patience, passive)
    with Shutdown(is_worker=True, stop=stop) as shutdown, contextlib.closing(EventLog(log_file, settings.name)) as log:
        consumer = Consumer(settings, shutdown, ack_timeout, burst, slows_down=not (burst or max_tasks))
        report = Report(log)
        with contextlib.closing(consumer):
            consumer.connection.open()
            if not shutdown.has_begun:
                how = "Stops when the queue is empty." if burst else "To exit press CTRL+C"
                say(f" [*] Waiting for tasks in {consumer.connection.where}. {how}")
            taken = 0
            while taken != max_tasks and (task := consumer.next()):
                taken += 1
                handle(task, perform, consumer, report, shutdown, is_last=taken == max_tasks)
                del task  # before the next one comes: it may be large
                shutdown.handlers.reinstall()  # meanwhile RabbitMQ sends the next task
        finish_background()
        say(" [*] Stopped.")


def handle(task: Task, perform: Perform, consumer: Consumer, report: Report, shutdown: Shutdown, is_last: bool) -> None:
    """Perform one task, settle it with RabbitMQ, and report how it went."""
    report.received(task)
    try:
        perform_here(task, perform, shutdown)
    except BaseException as error:  # any exception is a failure of the task, except Ctrl+C and WorkerError
        is_interrupted = isinstance(error, KeyboardInterrupt) and shutdown.has_interrupted
        if is_interrupted:
            shutdown.ignore_further_signals()
        if is_interrupted or isinstance(error, WorkerError):
            consumer.hand_back()
            report.handed_back(task, is_interrupted)
        else:
            again = consumer.seconds_until_next_try(task)
            is_rejected = consumer.reject(is_last or isinstance(error, OnlyBegun))
            report.failed(task, error, is_rejected, again)
        if isinstance(error, (WorkerError, OnlyBegun)):
            raise
    else:
        if consumer.acknowledge(is_last):
            report.done(task)
        else:
            report.ack_lost(task)


def perform_here(task: Task, perform: Perform, shutdown: Shutdown) -> None:
    """Perform a task. Ctrl+C may interrupt only here, and not while the task is acknowledged."""
    pid = os.getpid()
    try:
        with shutdown.interruptible():
            check_result(perform(task))
    finally:
        if os.getpid() != pid:  # a process that the task forked must not settle the task
            end_forked_process()


def parsed_flags() -> argparse.Namespace:
    """Return the flags given on the command line."""
    parser = new_parser(
        "Take one task at a time from a RabbitMQ queue, do it, and acknowledge it.",
        "Without --run, the worker only sleeps: one second for each dot in the task's text.",
    )
    flag = parser.add_argument
    name_help = "the worker's name in the admin panel and in the log (default: worker-HOST-PID)"
    flag("--name", type=not_empty, help=name_help)
    dot_help = "without --run: how many seconds to sleep for each dot in a task (default: 1)"
    flag("--seconds-per-dot", type=float, default=1.0, metavar="S", help=dot_help)
    run_help = "the command to run for each task; {} is replaced by the task, which is also on standard input"
    flag("--run", type=not_empty, metavar="COMMAND", help=run_help)
    burst_help = "stop when the queue is empty, and no task that failed here is still to be tried again"
    flag("--burst", action="store_true", help=burst_help)
    flag("--max-tasks", type=int, metavar="N", help="stop after N tasks")
    ack_help = (
        "how many hours a task may take before RabbitMQ takes it back, from 0.001 to 1,000 (default: 24); "
        "needs RabbitMQ 4.3 or later (before that, see docs/versions.md)"
    )
    flag("--ack-timeout", type=float, default=ACK_TIMEOUT_HOURS, metavar="HOURS", help=ack_help)
    return parser.parse_args()


def main() -> int:
    """Run the worker and return its exit status."""
    flags = vars(parsed_flags())
    seconds_per_dot, command = flags.pop("seconds_per_dot"), flags.pop("run")
    perform = sleeping(seconds_per_dot) if command is None else running(command)
    with contextlib.suppress(KeyboardInterrupt):  # no error: the task was handed back
        listen(perform, **flags)
    return 0


if __name__ == "__main__":
    run(main)
