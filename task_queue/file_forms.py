"""Input that is not plain UTF-8 text: how to recognise it, and the command that converts it to text."""

from __future__ import annotations

import os
import shlex

from task_queue.system import WINDOWS
from task_queue.text import printable

# A file's first bytes, what such a file is, and the command that converts it to text, if there is one.
SIGNATURES: list[tuple[bytes, str, str | None]] = [
    (b"\xff\xfe\0\0", "UTF-32", "iconv -f utf-32 -t utf-8"),
    (b"\0\0\xfe\xff", "UTF-32", "iconv -f utf-32 -t utf-8"),
    (b"\xff\xfe", "UTF-16", "iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16", "iconv -f utf-16 -t utf-8"),
    (b"\x1f\x8b", "compressed with gzip", "gzip -dc"),
    (b"\x1f\x9d", "compressed with compress", "gzip -dc"),
    (b"BZh91AY&SY", "compressed with bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\0", "compressed with xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "zstd -dc"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", None),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", None),
    (b"\xd0\xcf\x11\xe0", "a document or a spreadsheet of an old Office", None),
    (b"%PDF-", "a PDF document", None),
]
BY_HAND = 'Unpack it, or save it as text: a spreadsheet as "CSV UTF-8".'
PIPED = (
    "PowerShell sends UTF-8 after:  $OutputEncoding = [Text.UTF8Encoding]::new()  "
    "and reads it with:  Get-Content -Encoding utf8"
)
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".Z")


class Form:
    """Says what is wrong with the bytes of one input.

    Args:
        path: the file; None is standard input.

    Attributes:
        name: what to call the input.
        is_csv: each row is a task.
    """

    def __init__(self, path: str | None) -> None:
        self.name = "standard input" if path is None else printable(path)
        self.is_csv = path is not None and path.lower().endswith(".csv")
        self._path = path

    def whole(self, first: bytes) -> str | None:
        """Say what the input is, if its first line shows that it is not UTF-8."""
        for signature, what, command in SIGNATURES:
            if first.startswith(signature):
                return f"{self.name} is {what}. {self._convert(command, 1) if command else BY_HAND}"
        return None

    def undecodable(self, line: int, raw: bytes) -> str:
        """Say why a line can't be decoded, and what its encoding may be."""
        return f"Line {line} of {self.name} is not UTF-8. {self._convert(f'iconv -f {_guess(raw)} -t utf-8', line)}"

    def with_nul(self, line: int, raw: bytes) -> str:
        """Say that a line with NUL characters is probably UTF-16, which has one before or after each ASCII letter."""
        order = "utf-16be" if line == 1 and raw.startswith(b"\0") else "utf-16le"
        command = self._convert(f"iconv -f {order} -t utf-8", line)
        return f"Line {line} of {self.name} has NUL characters in it: is it UTF-16? {command}"

    def with_carriage_returns(self, line: int) -> str:
        """Say how to convert lines that end in a carriage return, as on an old Mac."""
        command = self._convert(r"tr '\r' '\n'", line, reads_only_pipes=True)
        return f"Line {line} of {self.name} has carriage returns in it: are they the ends of lines? {command}"

    def _convert(self, command: str, line: int, reads_only_pipes: bool = False) -> str:
        if WINDOWS:
            return PIPED if self._path is None else BY_HAND
        go_on = f"| tail -n +{line} | python3 emitter_of_tasks.py" if line > 1 else "| python3 emitter_of_tasks.py"
        if self._path is None:
            return f"Convert it on the way:  ... | {command} {go_on}"
        path = f"./{self._path}" if self._path.startswith("-") else self._path
        stem, ending = os.path.splitext(path)
        if ending in COMPRESSED:
            stem, ending = os.path.splitext(stem)
        if ending.lower() == ".csv":  # a pipe has lines, not rows; report.py prints the line to go on from
            go_on = f"> {shlex.quote(f'{stem}-utf8.csv')}"
        return printable(f"Convert it:  {command} {'< ' if reads_only_pipes else ''}{shlex.quote(path)} {go_on}")


def _guess(raw: bytes) -> str:
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "latin1"
    return "windows-1252"
