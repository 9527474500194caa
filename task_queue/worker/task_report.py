"""What a worker shows and logs of each task: received, done, failed, handed back."""

from __future__ import annotations

import os
import traceback

from task_queue.event_log import EventLog
from task_queue.terminal.console import complain, say
from task_queue.terminal.text import printable, shown
from task_queue.worker.run_command import CommandFailed
from task_queue.worker.task import Task


class Report:
    """Tells the person and the log what becomes of the tasks.

    Args:
        log: gets a record for each event.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._has_told_way_back = False

    def received(self, task: Task) -> None:
        """Tell that a task has come."""
        say(f" [x] Received {shown(task.body)}{' (redelivered)' if task.redelivered else ''}")
        self._record("received", task, redelivered=task.redelivered, delivery_count=task.delivery_count)

    def done(self, task: Task) -> None:
        """Tell that a task is done and acknowledged."""
        self._record("done", task, seconds=task.seconds())
        say(" [x] Done.")

    def ack_lost(self, task: Task) -> None:
        """Tell that a task is done, and that RabbitMQ does not know."""
        self._record("ack-lost", task, seconds=task.seconds())
        complain(" [!] Done, but its acknowledgement is lost: RabbitMQ will hand this task out again.")

    def failed(self, task: Task, error: BaseException, is_rejected: bool, again: float) -> None:
        """Tell why a task failed, and in how many seconds it is tried again; 0 if it does not wait."""
        why = reason_of(error)
        self._record("failed", task, error=why, seconds=task.seconds())
        when = f"; again in about {again:.0f} s" if is_rejected and again else ""
        say(f" [!] Failed{task.try_in_words}: {printable(why)}{when}")
        if is_rejected and task.is_last_try:
            say(f" [!] It failed too often, and is a dead letter now: {shown(task.body)}")
            if not self._has_told_way_back:
                self._has_told_way_back = True
                say(" [*] When the cause is fixed, emitter_of_tasks.py --retry-dead-letters moves dead letters back.")

    def handed_back(self, task: Task, is_interrupted: bool) -> None:
        """Tell that a task goes back to the queue, unfinished."""
        self._record("requeued", task, seconds=task.seconds())
        begin = "\n" * is_interrupted + " [*]"  # a terminal shows ^C without a newline
        say(f"{begin} Not finished, so it goes back to the queue: {shown(task.body)}")

    def _record(self, event: str, task: Task, **more: object) -> None:
        self._log.note(event, task.message_id, task.body, **more)
        self._log.write()


def reason_of(error: BaseException) -> str:
    """Return in one line why a task failed; for an error in Python code, also where."""
    if isinstance(error, CommandFailed):
        return str(error)
    try:
        text = str(error)
    except Exception:
        text = "and why can't be said"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({os.path.basename(place.filename)}, line {place.lineno})"
