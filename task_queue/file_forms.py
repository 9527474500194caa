"""Input that is not plain UTF-8 text: how it is recognised, and the command that makes text of it."""

from __future__ import annotations

import shlex

from task_queue.terminal import printable

# How a file begins, what it is then, and the command that makes text of it.
SIGNATURES = [
    (b"\xff\xfe\0\0", "UTF-32", "iconv -f utf-32 -t utf-8"),
    (b"\0\0\xfe\xff", "UTF-32", "iconv -f utf-32 -t utf-8"),
    (b"\xff\xfe", "UTF-16", "iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16", "iconv -f utf-16 -t utf-8"),
    (b"\x1f\x8b", "compressed with gzip", "gzip -dc"),
    (b"BZh91AY&SY", "compressed with bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\0", "compressed with xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "zstd -dc"),
    (b"PK\x03\x04", 'a zip archive or a spreadsheet (save that one as "CSV UTF-8")', "unzip -p"),
]


class Form:
    """What is wrong with the bytes of one input, in words.

    Args:
        path: the file; None is standard input.
        is_csv: its rows are tasks.

    Attributes:
        name: what to call the input.
    """

    def __init__(self, path: str | None, is_csv: bool) -> None:
        self.name = "standard input" if path is None else printable(path)
        self._path, self._is_csv = path, is_csv

    def whole(self, first: bytes) -> str | None:
        """Say what the input is, if its first line tells that it is not UTF-8."""
        for signature, what, command in SIGNATURES:
            if first.startswith(signature):
                return f"{self.name} is {what}. {self._convert(command)}"
        return None

    def undecodable(self, line: int, raw: bytes) -> str:
        """Say why a line can't be decoded, and what its encoding may be."""
        return f"Line {line} of {self.name} is not UTF-8. {self._convert(f'iconv -f {_guess(raw)} -t utf-8')}"

    def with_nul(self, line: int, raw: bytes) -> str:
        """Say what a line is likely to be that has NUL characters in it."""
        order = "utf-16be" if raw.startswith(b"\0") else "utf-16le"
        command = self._convert(f"iconv -f {order} -t utf-8")
        return f"Line {line} of {self.name} has NUL characters in it: is it UTF-16? {command}"

    def with_carriage_returns(self, line: int) -> str:
        """Say what to do about lines that end as those of an old Mac."""
        command = self._convert(r"tr '\r' '\n'", reads_only_pipes=True)
        return f"Line {line} of {self.name} has carriage returns in it: are they the ends of lines? {command}"

    def _convert(self, command: str, reads_only_pipes: bool = False) -> str:
        if self._path is None:
            return f"Convert it on the way:  ... | {command} | python3 emitter_of_tasks.py"
        path = printable(shlex.quote(self._path))
        goes_to = "> utf8.csv" if self._is_csv else "| python3 emitter_of_tasks.py"
        return f"Convert it:  {command} {'< ' if reads_only_pipes else ''}{path} {goes_to}"


def _guess(raw: bytes) -> str:
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "latin1"
    return "windows-1252"
