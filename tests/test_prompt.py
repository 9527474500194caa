"""What a person at a terminal sees of the emitter: the question, the prompt, and what is said meanwhile."""

import contextlib
import os
from collections.abc import Callable

import pexpect
import pyte
import pytest
from harness import Scripts, eventually
from relay import Relay
from scripted_server import Server, Session, bodies

QUESTION = "Would you like to monitor RabbitMQ queues? y or n:"
PROMPT = "Enter new task:"


class Screen:
    """A terminal with an emitter in it, and what the person sees there."""

    def __init__(self, scripts: Scripts, *arguments: str, columns: int = 200, **environment: str) -> None:
        self.terminal = scripts.at_terminal("emitter_of_tasks.py", *arguments, **environment)
        self.terminal.setwinsize(50, columns)
        self._screen = pyte.Screen(columns, 50)
        self._stream = pyte.Stream(self._screen)
        self.raw = ""

    @property
    def lines(self) -> list[str]:
        """The lines as they are now, without those that are empty."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                self.raw += (new := self.terminal.read_nonblocking(4096, timeout=0))
                self._stream.feed(new)
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def shows(self, what: str, of: Callable[[list[str]], object]) -> list[str]:
        eventually(lambda: of(self.lines), what)
        return self.lines

    def ends_with(self, *last: str) -> list[str]:
        return self.shows(f"{last}", lambda lines: lines[-len(last) :] == [*last])

    def types(self, text: str) -> None:
        self.terminal.send(text)

    def ends(self, status: int) -> list[str]:
        eventually(lambda: self.lines is not None and not self.terminal.isalive(), "it ends")
        assert self.terminal.exitstatus == status
        return self.lines


def test_there_is_a_connection_before_there_is_a_question(at_server: Scripts) -> None:
    (said,) = Screen(at_server, AMQP_URL="amqp://localhost:1").ends(1)
    assert said == " [!] Nothing listens at localhost:1: is RabbitMQ running there? (The address is that of AMQP_URL.)"


def test_a_task_can_be_edited_and_the_one_before_brought_back(at_server: Scripts, server: Server) -> None:
    """But not the answer to the question."""
    screen = Screen(at_server)
    screen.ends_with(QUESTION)
    screen.types("No\r")
    screen.ends_with(
        f"{QUESTION} No", f" [*] Sending tasks to queue tasks at {server.at}. To exit press CTRL+C", PROMPT
    )
    assert "\x1b[?2004h" not in screen.raw  # by which a terminal is asked to tell what is pasted
    screen.types("\x1b[AGrößer\x7f\x1b[D\x1b[D!\r")  # a character too many, and two steps to the left
    lines = screen.ends_with(f"{PROMPT} Grö!ße", " [x] Sent Grö!ße", PROMPT)
    assert sum("To exit" in line for line in lines) == 1
    screen.types("\x1b[A.\rtwo\rthree\r")
    screen.ends_with(" [x] Sent three", PROMPT)
    assert bodies(server) == ["Grö!ße", "Grö!ße.", "two", "three"]


@pytest.mark.parametrize("key", ["\x04", "\x03"])
@pytest.mark.parametrize("asked", [QUESTION, PROMPT])
def test_the_end_of_input_and_ctrl_c_end_the_emitter(at_server: Scripts, server: Server, asked: str, key: str) -> None:
    screen = Screen(at_server, *["--no-admin"] * (asked == PROMPT))
    screen.ends_with(asked)
    screen.types(key)
    assert [line for line in screen.ends(0) if "[!]" in line or "Traceback" in line] == []
    assert server.got("Basic.Publish") == []


@pytest.mark.parametrize("way", [["task"], ["--file", "tasks.txt"], ["--retry-dead-letters"]])
def test_no_question_is_asked_where_no_task_is_typed(at_server: Scripts, server: Server, way: list[str]) -> None:
    (at_server.folder / "tasks.txt").write_text("task\n")
    (line,) = Screen(at_server, *way).ends(0)
    assert line.startswith((" [x] Sent ", " [*] No dead letters"))


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # as Python takes them, depending on the language
def test_what_is_no_text_is_not_sent_and_ends_the_emitter(at_server: Scripts, server: Server, errors: str) -> None:
    screen = Screen(at_server, "--no-admin", PYTHONIOENCODING=f"utf-8:{errors}")
    screen.ends_with(PROMPT)
    os.write(screen.terminal.child_fd, b"Gr\xf6\xdfe\n")
    assert screen.ends(1)[-1] == " [!] That is not text in this terminal's encoding."
    assert bodies(server) == []


def test_an_emitter_that_waited_at_its_prompt_sends_at_once(scripts: Scripts, relay: Relay) -> None:
    screen = Screen(scripts, "--no-admin", AMQP_URL=f"{relay.url}?heartbeat=1")
    screen.ends_with(PROMPT)
    eventually(lambda: relay.heartbeats > 5, "it is alive though nobody types")
    screen.types("late\r")
    assert len(screen.ends_with(" [x] Sent late", PROMPT)) == 4, "no connection was lost"
    (message,) = scripts.broker.messages(scripts.queue)
    assert (message["body"], message["properties"]["delivery_mode"]) == (b"late", 2)


def test_a_task_that_is_typed_while_rabbitmq_is_away_is_told_of_and_sent_later(
    at_server: Scripts, server: Server
) -> None:
    screen = Screen(at_server, "--no-admin")
    screen.ends_with(PROMPT)
    server.on("Connection.Open", Session.hang_up)
    server.session(0).hang_up()
    screen.shows("it is lost", lambda lines: " [*] Reconnecting ..." in lines and lines[-1:] == [PROMPT])
    screen.types("task\r")
    screen.shows("it is told", lambda lines: " [*] RabbitMQ is away. The task is sent when it is back." in lines)
    server.on("Connection.Open", Session.answer)
    screen.ends_with(" [x] Sent task", PROMPT)


@pytest.mark.parametrize(("asked", "has_readline"), [(QUESTION, True), (PROMPT, True), (PROMPT, False)])
def test_a_message_is_shown_above_the_prompt_and_what_was_typed(
    at_server: Scripts, server: Server, asked: str, has_readline: bool
) -> None:
    if not has_readline:  # as in Python for Windows
        (at_server.folder / "readline.py").write_text("raise ImportError\n")
    screen = Screen(at_server, *["--no-admin"] * (asked == PROMPT), PYTHONPATH=str(at_server.folder))
    screen.ends_with(asked)
    screen.types("n")
    screen.ends_with(f"{asked} n")
    server.session(0).hang_up()
    below = f"{asked} n" if has_readline else asked
    lines = screen.shows("the message", lambda lines: " [*] Connected again." in lines and lines[-1:] == [below])
    assert sum(asked in line for line in lines) == 1 or not has_readline
    screen.types("o\r")
    screen.ends_with(*[" [x] Sent no"] * (asked == PROMPT), PROMPT)


@pytest.mark.parametrize("columns", [200, 30])
def test_a_message_does_not_change_what_is_sent(at_server: Scripts, server: Server, columns: int) -> None:
    """Where the line wraps, or the cursor is in the middle, it may look odd."""
    screen = Screen(at_server, "--no-admin", columns=columns)
    screen.shows("the prompt", lambda lines: lines[-1:] == [PROMPT])
    screen.types("delete everything, 日本語 and all the rest")
    screen.types("\x01" + "\x1b[C" * 7)  # to the beginning, and seven steps to the right
    server.session(0).hang_up()
    screen.shows("it is told", lambda lines: "again." in "".join(lines))
    screen.types("NOT \r")
    screen.shows("it is sent", lambda lines: lines[-1:] == [PROMPT] and "Sent" in "".join(lines))
    assert bodies(server) == ["delete NOT everything, 日本語 and all the rest"]
