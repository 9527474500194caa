"""The exceptions that end a program with words instead of a traceback."""

from __future__ import annotations


class Failure(Exception):
    """The program can't go on; the text says why, and how to mend it.

    Attributes:
        exit_code: the exit status of a script that ends with it.
        is_told: the outbox has been given the text already.
    """

    exit_code = 1
    is_told = False


class QueueError(Failure):
    """RabbitMQ can't be used as asked."""


class SettingsError(QueueError):
    """A flag or an environment variable makes no sense."""

    exit_code = 2


class WorkerError(Failure):
    """This worker lacks what its work needs, so the task can't be blamed, and others may do it."""


class InputError(Failure):
    """The tasks can't be read to their end."""
