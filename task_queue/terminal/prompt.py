"""A question to the person at the terminal, with line editing. Lines from other threads are printed above it."""

from __future__ import annotations

import sys
import threading
from types import BuiltinFunctionType
from typing import Any, TextIO

from task_queue.terminal.blocked_output import is_terminal, wait_until_writable
from task_queue.terminal.console import print_now, say, set_prompt_printer
from task_queue.windows import WINDOWS

DRAWN_WITHIN = 0.2  # seconds to wait until the question is on the screen


class Prompt:
    """A question that may be asked again and again.

    Args:
        text: what is shown before the cursor.
        has_history: the arrow keys bring earlier answers back.
    """

    def __init__(self, text: str, has_history: bool) -> None:
        self._text, self._has_history = text, has_history
        self._is_drawn = threading.Event()
        is_edited = sys.stderr and is_terminal(sys.stdin) and is_terminal(sys.stdout)
        self._readline = line_editor() if is_edited else None

    def ask(self) -> str:
        """Return what is typed.

        Raises:
            EOFError: there is no more input, or no terminal any more.
            UnicodeError: it is not text in the terminal's encoding.
        """
        wait_until_writable(sys.stdout)  # no signal can interrupt input() on a paused terminal
        set_prompt_printer(self._print_above)
        try:
            typed = self._input()
        except UnicodeError:  # a ValueError, too, but no end of the input
            raise
        except (OSError, RuntimeError, ValueError) as error:  # standard input or output is closed
            raise EOFError from error
        finally:
            set_prompt_printer(None)
            self._is_drawn.clear()
        if typed == "\x04":  # on Windows, Ctrl+D is an ordinary character
            raise EOFError
        return typed

    def _input(self) -> str:
        if is_notebook():
            return input(self._text)
        if self._readline is None:
            say(self._text, end="")
            self._is_drawn.set()
            if not (line := sys.stdin.readline()):  # not by input(), which may use readline
                raise EOFError
            return line.rstrip("\n")
        self._readline.set_auto_history(self._has_history)
        self._readline.set_pre_input_hook(self._is_drawn.set)  # libedit, on macOS, never calls it
        return input(self._text)

    def _print_above(self, text: str, stream: TextIO) -> None:
        # Called by the background thread.
        self._is_drawn.wait(DRAWN_WITHIN)
        if is_terminal(sys.stdout) and is_terminal(stream):
            typed = self._text + (self._readline.get_line_buffer() if self._readline else "")
            # Blanks, because old consoles of Windows do not support escape codes.
            text = f"\r{' ' * len(typed)}\r{text}{typed}"
        print_now(text, stream)


def is_notebook() -> bool:
    """Tell whether input() asks in another way than at a terminal, like in Jupyter and the consoles of IDEs."""
    return not isinstance(input, BuiltinFunctionType)


def line_editor() -> Any:
    """Return readline, which gives input() line editing; None if Python does not have it, like on Windows."""
    if WINDOWS:
        return None
    try:
        import readline  # only here: most runs ask nothing, and start faster without it
    except ImportError:
        return None
    readline.parse_and_bind("set enable-bracketed-paste off")  # else several pasted lines become one answer
    return readline
