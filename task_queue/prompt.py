"""A question to the person at the terminal, with line editing. Lines from other threads are printed above it."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any, TextIO

from task_queue import terminal
from task_queue.system import WINDOWS
from task_queue.wakeup import call_main, callable_by_others

CALLED_WITHIN = 0.1  # seconds; if the main thread has not printed by then, it is called again


class Prompt:
    """A question that may be asked again and again.

    Args:
        text: what is shown before the cursor.
        has_history: the arrow keys bring earlier answers back.
    """

    def __init__(self, text: str, has_history: bool) -> None:
        self._text, self._has_history = text, has_history
        self._is_asked = False
        self._is_open = False  # asked, and the person can see it and type
        self._waiting: deque[tuple[str, TextIO]] = deque()  # lines from other threads
        self._readline: Any = None
        self._redrawing: Redrawing | None = None
        if sys.stderr and terminal.is_terminal(sys.stdin) and terminal.is_terminal(sys.stdout):  # or input() has none
            self._readline = line_editor()
            self._redrawing = Redrawing.by(self._readline)

    def ask(self) -> str:
        """Return what is typed.

        Raises:
            EOFError: there is no more input, or no terminal any more.
            UnicodeError: it is not text in the terminal's encoding.
        """
        terminal.wait_for(sys.stdout)  # while a terminal is paused, no signal can interrupt input()
        with callable_by_others(self._print_above):
            self._is_asked = True
            terminal.print_for_others(self._hand_over)
            try:
                typed = self._input()
            except UnicodeError:
                raise
            except (OSError, RuntimeError, ValueError) as error:  # standard input or output is closed
                raise EOFError from error
            finally:
                terminal.print_for_others(None)
                self._is_asked = self._is_open = False
                self._print_waiting()
        if typed == "\x04":  # Ctrl+D on Windows, where it is a character like any other
            raise EOFError
        return typed

    def edit_no_more(self) -> None:
        """Switch line editing off: readline keeps a part of bytes that are not text, and adds it to the next answer."""
        self._readline = self._redrawing = None

    def _input(self) -> str:
        if self._readline is None:
            terminal.say(self._text, end="")
            self._begin()
            if not (line := sys.stdin.readline()):
                raise EOFError
            return line.rstrip("\n")
        self._readline.set_auto_history(self._has_history)
        if "libedit" in self._readline.__doc__:  # on macOS; it has no hook
            self._begin()
        else:
            self._readline.set_pre_input_hook(self._begin)
        return input(self._text)

    def _begin(self) -> None:
        self._is_open = True

    def _hand_over(self, text: str, stream: TextIO) -> None:
        # In another thread, which waits until the main one has printed this.
        self._waiting.append((text, stream))
        while self._waiting and self._is_asked and call_main():
            time.sleep(CALLED_WITHIN)
        if self._is_asked:  # on Windows input() can't be interrupted
            self._print_above()
        self._print_waiting()  # the question is over

    def _print_above(self) -> None:
        if not (self._is_open and self._waiting):
            return
        if self._redrawing is not None:
            self._redrawing.erase()
            self._print_waiting()
            self._redrawing.draw()
        else:
            is_shown = terminal.is_terminal(sys.stdout)
            if is_shown:  # with blanks, because an old console of Windows knows no escape codes
                terminal.print_now(f"\r{' ' * len(self._text)}\r", sys.stdout)
            self._print_waiting()
            if is_shown:
                typed = self._readline.get_line_buffer() if self._readline else ""
                terminal.print_now(self._text + typed, sys.stdout)

    def _print_waiting(self) -> None:
        while self._waiting:
            text, stream = self._waiting.popleft()
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


class Redrawing:
    """What readline itself can do with the line that is being edited, and Python's module does not offer.

    Only readline knows where on the screen the line begins, and where its cursor is. Source:
    https://tiswww.case.edu/php/chet/readline/readline.html#Redisplay
    """

    def __init__(self, library: Any) -> None:
        self._clear, self._update, self._flush = (
            library.rl_clear_visible_line,
            library.rl_forced_update_display,
            library.fflush,
        )

    @classmethod
    def by(cls, readline: Any) -> Redrawing | None:
        """Return it for the module, or None where that has another library behind it, as on macOS."""
        try:
            import ctypes

            return cls(ctypes.PyDLL(readline.__file__))
        except (ImportError, OSError, AttributeError):
            return None

    def erase(self) -> None:
        """Erase the line, however many rows it fills, and leave the cursor where it began."""
        self._clear()
        self._flush(None)

    def draw(self) -> None:
        """Draw the line at the cursor."""
        self._update()
