"""Counts what became of each task, from records that are independent of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Account:
    """What became of the tasks of one scenario. Tasks are told apart by their text, messages by their message_id.

    Attributes:
        tasks: how many were to be sent.
        lost: those that the emitter reported as confirmed, and that were neither done, nor are dead letters, nor
            wait in the queue.
        unsent: those never reported as confirmed, whatever became of them.
        twice: how many times a message was done after it had been done before.
        sent_twice: how many messages there are of tasks that have one already.
        dead, left: tasks that are dead letters, and that wait in the queue.
        unknown: what was done without having been a task to send.
        untrue: tasks that a worker reported as done more often than they wrote down that they were done.
    """

    tasks: int = 0
    lost: list[str] = field(default_factory=list)
    unsent: list[str] = field(default_factory=list)
    twice: int = 0
    sent_twice: int = 0
    dead: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)


def settle(
    tasks: Iterable[str],
    log: list[Record],
    book: list[Record],
    dead: Iterable[str],
    left: Iterable[str],
    thrown_away: Iterable[str] = (),
) -> Account:
    """Return what became of the tasks.

    Args:
        tasks: the texts of those that were to be sent.
        log: the records of the scripts, from their `--log-file`.
        book: what each task itself wrote when it was done.
        dead, left: the texts in the dead letters and in the queue, as the broker shows them.
        thrown_away: the texts that nobody can keep, because the queue was deleted with them in it.
    """
    to_send, dead, left = set(tasks), set(dead), set(left)
    confirmed = {record["task"] for record in log if record["event"] == "confirmed"}
    reported = Counter(message(record) for record in log if record["event"] == "done")
    done = Counter(message(record) for record in book)
    accounted_for = {text for text, _ in done} | dead | left
    sent = {message(record) for record in log if record["event"] == "confirmed"} | set(done)
    return Account(
        tasks=len(to_send),
        lost=sorted(confirmed - accounted_for - set(thrown_away)),
        unsent=sorted(to_send - confirmed),
        twice=sum(done.values()) - len(done),
        sent_twice=len(sent) - len({text for text, _ in sent}),
        dead=dead,
        left=left,
        unknown=sorted(accounted_for - to_send),
        untrue=sorted(text for text, _ in reported - done),
    )


def message(record: Record) -> tuple[str, str]:
    """Return by which a record's message is told from all others."""
    return record["task"], record["message_id"]
