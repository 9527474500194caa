"""A question to the person at the terminal, with line editing. Lines from other threads are printed above it."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from task_queue import terminal
from task_queue.system import WINDOWS


class Prompt:
    """A question that may be asked again and again.

    Args:
        text: what is shown before the cursor. The arrow keys bring earlier answers back.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        is_edited = terminal.is_terminal(sys.stdin) and terminal.is_terminal(sys.stdout)
        self._readline = line_editor() if is_edited else None

    def ask(self) -> str:
        """Return what is typed.

        Raises:
            EOFError: there is no more input, or no terminal any more.
            UnicodeError: it is not text in the terminal's encoding.
        """
        terminal.wait_for(sys.stdout)  # while a terminal is paused, no signal can interrupt input()
        terminal.print_through(self._print_above)
        try:
            if self._readline is not None:
                typed = input(self._text)
            else:
                terminal.say(self._text, end="")
                typed = sys.stdin.readline() or "\x04"  # and not input(), which may use readline all the same
        except OSError as error:  # the terminal is gone
            raise EOFError from error
        finally:
            terminal.print_through(None)
        if (text := typed.rstrip("\n")) == "\x04":  # also Ctrl+D on Windows, where it is a character like any other
            raise EOFError
        return text

    def edit_no_more(self) -> None:
        """Switch line editing off: readline keeps a part of bytes that are not text, and adds it to the next answer."""
        self._readline = None

    def _print_above(self, text: str, stream: TextIO) -> None:
        # Called by the background thread.
        if terminal.is_terminal(sys.stdout) and terminal.is_terminal(stream):
            typed = self._text + (self._readline.get_line_buffer() if self._readline else "")
            # Blanks, because an old console of Windows knows no escape codes.
            text = f"\r{' ' * len(typed)}\r{text}{typed}"
        terminal.print_now(text, stream)


def line_editor() -> Any:
    """Return readline, which gives input() line editing; None if Python does not have it, as on Windows."""
    if WINDOWS:
        return None
    try:
        import readline  # only here: most runs ask nothing, and start faster without it
    except ImportError:
        return None
    readline.parse_and_bind("set enable-bracketed-paste off")  # it would make one answer of several pasted lines
    return readline
