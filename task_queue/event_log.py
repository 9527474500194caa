"""The log: one JSON object per line for each event, in a file that several processes may share."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timezone

from task_queue.exceptions import SettingsError
from task_queue.terminal.console import complain
from task_queue.terminal.text import printable, text_of


class EventLog:
    """Appends records to a file.

    Args:
        path: the file; None for no log.
        name: the name of this process, in each record.

    Attributes:
        descriptor: of the file; None without a log.

    Raises:
        SettingsError: the file can't be opened.
    """

    def __init__(self, path: str | None, name: str) -> None:
        self.descriptor: int | None = None
        self._name = name
        self._noted: list[dict[str, object]] = []
        self._is_torn = False  # the disk was full in the middle of the last line
        self._has_complained = False
        if path is None:
            return
        import json  # only here: most runs have no log, and start faster without it

        self._encode = json.JSONEncoder(default=str).encode
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self.descriptor = os.open(path, flags, 0o666)
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
        lines = "\n" * self._is_torn + "".join(self._encode({"time": now, **event}) + "\n" for event in self._noted)
        self._noted.clear()
        rest = lines.encode()
        try:
            while rest:  # more than once only if the disk is nearly full
                written = os.write(self.descriptor, rest)
                self._is_torn = not rest[:written].endswith(b"\n")
                rest = rest[written:]
        except OSError as error:
            if not self._has_complained:  # once, and go on trying: a full disk may have room again
                self._has_complained = True
                complain(f" [!] The log file can't be written: {error.strerror}. The tasks go on.")

    def close(self) -> None:
        """Close the file; records are dropped from now on."""
        if self.descriptor is not None:
            with contextlib.suppress(OSError):  # a task may have closed it
                os.close(self.descriptor)
            self.descriptor = None
