"""The log: one JSON object a line for each event, in a file that several processes may share."""

from __future__ import annotations

import errno
import json
import os
from datetime import datetime, timezone

from task_queue.failures import SettingsError
from task_queue.terminal import complain, printable


class EventLog:
    """Appends records to a file.

    Args:
        path: the file; None for no log.
        name: of this process, in each record.

    Raises:
        SettingsError: the file can't be opened.
    """

    def __init__(self, path: str | None, name: str) -> None:
        self._name = name
        self._noted: list[dict[str, object]] = []
        self._is_torn = False  # a full disk took the beginning of a line only
        self._has_complained = False
        self._encode = json.JSONEncoder(default=str).encode
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666) if path is not None else None
        except OSError as error:
            raise SettingsError(f"The log file {printable(str(path))} can't be opened: {error.strerror}.") from None

    def note(self, event: str, message_id: str | None, task: str, **more: object) -> None:
        """Note an event, for write() to write down."""
        if self._file is not None:
            self._noted.append({"event": event, "name": self._name, "message_id": message_id, "task": task, **more})

    def write(self) -> None:
        """Write down what was noted: whole lines in one write, so that those of several processes never mix."""
        if self._file is None or not self._noted:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        lines = "".join(self._encode({"time": now, **event}) + "\n" for event in self._noted).encode()
        self._noted.clear()
        try:
            if self._is_torn:
                self._append(b"\n")
            self._append(lines)
        except OSError as error:
            if not self._has_complained:
                self._has_complained = True
                complain(f" [!] The log file can't be written: {error.strerror}. The tasks go on.")
            if error.errno in (errno.EPIPE, errno.EIO):  # nobody will ever read it; but a full disk may have room again
                self.close()

    def close(self) -> None:
        """Close the file; records are dropped from now on."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, lines: bytes) -> None:
        while lines and self._file is not None:  # once, unless the disk is nearly full
            written = os.write(self._file, lines)
            self._is_torn = not lines[:written].endswith(b"\n")
            lines = lines[written:]
