"""Makes any text safe to print on a terminal."""

from __future__ import annotations

import re

SHOWN_CHARACTERS = 500  # of a task's text
# Unicode's categories Cc, Cs, Zl and Zp, which move the cursor or are not text, and what changes the text direction.
HARMFUL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def text_of(body: bytes) -> str:
    """Return a task's text, with escapes for what is not UTF-8 in it."""
    return body.decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Return the text safe for a terminal: with escapes for harmful characters, and cut if it is very long."""
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[:SHOWN_CHARACTERS]} ... ({len(text):,} characters)"
    return HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def counted(number: int, what: str = "task") -> str:
    """Return `1 task`, `2 tasks` and so on."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
