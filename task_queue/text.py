"""Bytes as text, and text that is safe to print on a terminal."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

SHOWN_CHARACTERS = 500  # of a task's text
COUNTED_BYTES = 128 * 1024  # in a larger task we count bytes and not characters, because decoding it takes long
PIECE = 1024 * 1024  # bytes of a large text that are decoded at a time, to save memory
# Unicode's categories Cc, Cs, Zl and Zp, which move the cursor or are not text, and what changes the text direction.
HARMFUL = "[\0-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"


def text_of(body: bytes) -> str:
    """Return a task's text, with escapes for what is not UTF-8 in it."""
    return body.decode("utf-8", "backslashreplace")


def pieces_of(body: bytes) -> Iterator[str]:
    """Decode UTF-8 piece by piece.

    Raises:
        UnicodeDecodeError: it is no UTF-8.
    """
    decoder, whole = codecs.getincrementaldecoder("utf-8")(), memoryview(body)
    for start in range(0, len(body), PIECE):
        yield decoder.decode(whole[start : start + PIECE])
    yield decoder.decode(b"", final=True)


def is_blank(body: bytes) -> bool:
    """Tell whether a text has nothing but white space in it, of any script."""
    if b"!" <= body[:1] <= b"~":  # as most have; it is faster than to decode
        return False
    return not any(piece.strip() for piece in pieces_of(body))


def shown(body: bytes) -> str:
    """Return a task's text safe for a terminal, and cut if it is very long."""
    if len(body) <= COUNTED_BYTES:
        return printable(text_of(body))
    # The incremental decoder leaves out a character that is cut in two. None has more than 4 bytes.
    begin = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(body[: 4 * SHOWN_CHARACTERS])
    return f"{printable(begin[:SHOWN_CHARACTERS])} ... ({len(body):,} bytes)"


def printable(text: str) -> str:
    """Return the text safe for a terminal: with escapes for harmful characters, and cut if it is very long."""
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[:SHOWN_CHARACTERS]} ... ({len(text):,} characters)"
    if text.isprintable():  # as most are; the pattern need not even be compiled
        return text
    return re.sub(HARMFUL, lambda found: found[0].encode("unicode_escape").decode(), text)


def counted(number: int, what: str = "task") -> str:
    """Return `1 task`, `2 tasks` and so on."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
