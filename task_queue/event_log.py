"""The log: one JSON object per line for each event, in a file that several processes may share."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timezone

from task_queue.failures import SettingsError
from task_queue.terminal import GONE, Blocked, complain, wait_for
from task_queue.text import printable, text_of


class EventLog:
    """Appends records to a file.

    Args:
        path: the file; None for no log.
        name: the name of this process, in each record.

    Attributes:
        descriptor: the file's; None without a log.

    Raises:
        SettingsError: the file can't be opened.
    """

    def __init__(self, path: str | None, name: str) -> None:
        self._name = name
        self._noted: list[dict[str, object]] = []
        self._is_torn = False  # the file ends in the middle of a line, because the disk is full or a writer was killed
        self._has_complained = False
        if path is not None:
            import json  # only here: most runs have no log, and start faster without it

            self._encode = json.JSONEncoder(default=str).encode
        try:
            # Non-blocking: so a named pipe without a reader is an error. For a full one we wait in _append().
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            self.descriptor = os.open(path, flags, 0o666) if path is not None else None
            if path is not None:
                self._is_torn = is_torn(path)
        except OSError as error:
            raise SettingsError(f"The log file {printable(str(path))} can't be opened: {error.strerror}.") from None

    def note(self, event: str, message_id: str | None, body: bytes, **more: object) -> None:
        """Keep an event for the next write()."""
        if self.descriptor is not None:
            self._noted.append(
                {"event": event, "name": self._name, "message_id": message_id, "task": text_of(body), **more}
            )

    def write(self) -> None:
        """Write the events: whole lines in one write, so that the lines of several processes never mix."""
        if self.descriptor is None or not self._noted:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        lines = "".join(self._encode({"time": now, **event}) + "\n" for event in self._noted).encode()
        self._noted.clear()
        try:
            if self._is_torn:
                self._append(b"\n")
            self._append(lines)
        except Blocked:
            pass
        except OSError as error:
            if not self._has_complained:
                self._has_complained = True
                complain(f" [!] The log file can't be written: {error.strerror}. The tasks go on.")
            if error.errno in GONE:  # but a full disk may have room again
                self.close()

    def close(self) -> None:
        """Close the file; records are dropped from now on."""
        if self.descriptor is not None:
            with contextlib.suppress(OSError):  # a task has closed it
                os.close(self.descriptor)
            self.descriptor = None

    def _append(self, lines: bytes) -> None:
        while lines and self.descriptor is not None:  # one write, unless the disk is nearly full
            try:
                written = os.write(self.descriptor, lines)
            except BlockingIOError:
                wait_for(self.descriptor)
                continue
            self._is_torn = not lines[:written].endswith(b"\n")
            lines = lines[written:]


def is_torn(path: str) -> bool:
    """Tell whether a file ends in the middle of a line."""
    with contextlib.suppress(OSError):  # as of one that can only be written
        if os.path.isfile(path) and os.path.getsize(path):
            with open(path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
    return False
