"""What a worker prints about each task."""

from __future__ import annotations

from task_queue.task import Task
from task_queue.terminal import complain, say
from task_queue.text import printable, shown


def say_received(task: Task, has_taken_too_long: bool) -> None:
    """Tell the person that a task has arrived."""
    say(f" [x] Received {shown(task.body)}{' (redelivered)' if task.redelivered else ''}")
    if has_taken_too_long:
        complain(
            " [!] RabbitMQ has taken this task back before, because it took longer than --ack-timeout. This does "
            "not count as a failed try, so a task that always takes longer goes round for ever."
        )


def say_requeued(task: Task, why: BaseException, is_dead: bool) -> None:
    """Tell the person that a task goes back to the queue, or is a dead letter if that was one try too many."""
    before = "\n" if isinstance(why, KeyboardInterrupt) else ""  # a terminal shows ^C without a newline
    where = "and has no more tries, so it is a dead letter now" if is_dead else "so it goes back to the queue"
    say(f"{before} [*] Not finished, {where}: {shown(task.body)}")


def say_failed(task: Task, why: str, is_rejected: bool, again: float) -> None:
    """Tell the person that a task failed, and in how many seconds it is tried again; 0 if it does not wait."""
    when = f"; again in about {again:.0f} s" if is_rejected and again else ""
    say(f" [!] Failed ({task.tries}): {printable(why)}{when}")
    if is_rejected and task.is_last_try:
        say(f" [!] It failed too often, and is a dead letter now: {shown(task.body)}")
