"""What a person at a terminal sees of the emitter: the question, the prompt, and what is said meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pexpect
import pyte
import pytest
from harness import Scripts, eventually
from relay import Relay

QUESTION = "Would you like to monitor RabbitMQ queues? y or n:"
PROMPT = "Enter new task:"
LEAVE = "To exit press CTRL+C"


class Screen:
    """A terminal with a script in it, and what the person sees there."""

    def __init__(self, scripts: Scripts, *arguments: str, columns: int = 200, **environment: str) -> None:
        self.terminal = scripts.at_terminal("emitter_of_tasks.py", *arguments, **environment)
        self.terminal.setwinsize(50, columns)
        self._screen = pyte.Screen(columns, 50)
        self._stream = pyte.Stream(self._screen)
        self._raw = ""

    @property
    def lines(self) -> list[str]:
        """The lines as they are now, without those that are empty."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                self._raw += (new := self.terminal.read_nonblocking(4096, timeout=0))
                self._stream.feed(new)
        return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def asks_for_brackets(self) -> bool:
        """Whether the terminal is to put brackets around what is pasted."""
        return "\x1b[?2004h" in self._raw

    def shows(self, what: str, of: Callable[[list[str]], object]) -> list[str]:
        """Wait until the lines are as they should be, and return them."""
        try:
            eventually(lambda: of(self.lines), what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(self.lines)) from None
        return self.lines

    def ends_with(self, *last: str) -> list[str]:
        """Wait until these are the last lines, and return all."""
        return self.shows(f"{last}", lambda lines: lines[-len(last) :] == [*last])

    def types(self, text: str) -> None:
        self.terminal.send(text)

    def ends(self, status: int) -> list[str]:
        """Wait for the end of the script, and return the lines."""
        lines: list[str] = []

        def has_ended() -> bool:
            nonlocal lines
            lines = self.lines
            return not self.terminal.isalive()

        eventually(has_ended, "it ends")
        assert self.terminal.exitstatus == status
        return self.lines or lines


def without_readline(scripts: Scripts) -> dict[str, str]:
    """Return the environment of a Python that has no readline, like that of Windows."""
    (scripts.folder / "readline.py").write_text("raise ImportError\n")
    return {"PYTHONPATH": str(scripts.folder)}


# ---- The question


def test_there_is_a_connection_before_there_is_a_question(scripts: Scripts) -> None:
    screen = Screen(scripts, AMQP_URL="amqp://localhost:1")
    said, help_, *others = screen.ends(1)
    assert said == " [!] Nothing listens at localhost:1: is RabbitMQ running there?"
    assert help_ == "Start one with:  python3 tools/rabbitmq.py"
    assert others == []


@pytest.mark.parametrize("answer", ["n", "NO", " No "])
def test_no_leads_to_the_prompt_which_says_once_how_to_leave(scripts: Scripts, answer: str) -> None:
    screen = Screen(scripts)
    screen.ends_with(QUESTION)
    screen.types(f"{answer}\r")
    leave = f" [*] Sending tasks to queue {scripts.queue}. {LEAVE}"
    screen.ends_with(f"{QUESTION} {answer}".rstrip(), leave, PROMPT)
    screen.types("one\r")
    lines = screen.ends_with(f"{PROMPT} one", " [x] Sent one", PROMPT)
    assert sum(LEAVE in line for line in lines) == 1


@pytest.mark.parametrize("answer", ["", "maybe", "yesterday", "ja", "\x1b[A", "nö"])
def test_what_is_no_answer_is_told_so_and_asked_again(scripts: Scripts, answer: str) -> None:
    screen = Screen(scripts)
    for _ in range(2):
        screen.ends_with(QUESTION)
        screen.types(f"{answer}\r")
        screen.ends_with(" [*] That is no answer: please type y or n.", QUESTION)
    screen.types("n\r")
    screen.ends_with(PROMPT)


@pytest.mark.parametrize("key", ["\x04", "\x03"])
@pytest.mark.parametrize("asked", [QUESTION, PROMPT])
def test_the_end_of_input_and_ctrl_c_end_the_emitter(scripts: Scripts, asked: str, key: str) -> None:
    screen = Screen(scripts, *["--no-admin"] * (asked == PROMPT))
    screen.ends_with(asked)
    screen.types(key)
    lines = screen.ends(0)
    assert [line for line in lines if "[!]" in line or "Traceback" in line] == []
    assert scripts.broker.counts(scripts.queue)[0] == 0


@pytest.mark.parametrize("way", [["task"], ["--file", "tasks.txt"], ["--retry-dead-letters"]])
def test_no_question_is_asked_where_no_task_is_typed(scripts: Scripts, way: list[str]) -> None:
    scripts.work()  # declares both queues
    (scripts.folder / "tasks.txt").write_text("task\n")
    lines = Screen(scripts, *way).ends(0)
    assert lines
    assert not any(QUESTION in line or PROMPT in line for line in lines)


@pytest.mark.parametrize(("asked", "answer"), [(QUESTION, "y"), (QUESTION, "YES"), (None, "")])
def test_y_opens_the_admin_panel_in_the_browser_and_says_how_to_log_in(
    scripts: Scripts, asked: str | None, answer: str
) -> None:
    opened = scripts.folder / "opened"
    browser = scripts.folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    panel = f"{scripts.broker.node.admin_url}/#/queues"
    screen = Screen(scripts, "--admin-url", panel, *["--admin"] * (asked is None), columns=150, BROWSER=str(browser))
    if asked:
        screen.ends_with(asked)
        screen.types(f"{answer}\r")
    screen.shows("the prompt", lambda lines: lines[-1:] == [PROMPT])
    assert f" [*] RabbitMQ's admin panel: {panel} (user guest, password guest)" in screen.lines
    assert not any("Nothing answers" in line for line in screen.lines)
    assert opened.read_text() == f"{panel}\n"


def test_only_the_password_that_everybody_knows_is_shown(scripts: Scripts) -> None:
    scripts.broker.api("PUT", "users/learner", {"password": "se-cret", "tags": "administrator"})
    scripts.broker.api("PUT", "permissions/%2F/learner", {"configure": ".*", "write": ".*", "read": ".*"})
    url = scripts.broker.url.replace("guest:guest", "learner:se-cret")
    run = scripts.emit("--admin", "task", env={"AMQP_URL": url, "BROWSER": "true"})
    assert "admin panel: http://localhost:15672/#/queues\n" in run.out
    assert "se-cret" not in run.out + run.err
    scripts.broker.api("DELETE", "users/learner")


# ---- The prompt


def test_a_task_can_be_edited_and_the_one_before_brought_back(scripts: Scripts) -> None:
    screen = Screen(scripts, "--no-admin")
    screen.ends_with(PROMPT)
    screen.types("Größer\x7f\x1b[D\x1b[D!\r")  # a character too many, and two steps to the left
    screen.ends_with(f"{PROMPT} Grö!ße", " [x] Sent Grö!ße", PROMPT)
    screen.types("\x1b[A.\r")
    screen.ends_with(f"{PROMPT} Grö!ße.", " [x] Sent Grö!ße.", PROMPT)
    assert scripts.broker.bodies(scripts.queue) == ["Grö!ße", "Grö!ße."]


def test_the_answer_to_the_question_is_no_older_task(scripts: Scripts) -> None:
    screen = Screen(scripts)
    screen.ends_with(QUESTION)
    screen.types("n\r")
    screen.ends_with(PROMPT)
    screen.types("\x1b[Atask\r")
    screen.ends_with(" [x] Sent task", PROMPT)


def test_lines_that_are_pasted_are_a_task_each(scripts: Scripts) -> None:
    screen = Screen(scripts, "--no-admin")
    screen.ends_with(PROMPT)
    assert not screen.asks_for_brackets  # by which a terminal tells what is pasted
    screen.types("one\rtwo\rthree\r")
    screen.ends_with(" [x] Sent three", PROMPT)
    assert scripts.broker.bodies(scripts.queue) == ["one", "two", "three"]


# ---- What is said while a person types


@pytest.mark.parametrize("typed", ["", "half a task that goes on and on, 日本語 and more of it"])
def test_a_message_is_shown_above_the_prompt_and_what_was_typed(scripts: Scripts, relay: Relay, typed: str) -> None:
    screen = Screen(scripts, "--no-admin", AMQP_URL=relay.url)

    def without_spaces(text: str) -> str:  # some of which are at the end of a row
        return text.replace(" ", "")

    def last(text: str) -> Callable[[list[str]], object]:
        text, prompt = without_spaces(text), without_spaces(PROMPT)
        return lambda lines: (all_ := without_spaces("".join(lines))).endswith(text) and all_.count(prompt) == 1

    screen.shows("the prompt", last(PROMPT))
    screen.types(typed)
    screen.shows("what is typed", last(f"{PROMPT} {typed}"))
    relay.cut()
    lines = screen.shows(
        "the prompt below", lambda lines: last(f"{PROMPT} {typed}")(lines) and "again." in "".join(lines)
    )
    assert "Reconnecting..." in without_spaces("".join(lines))
    screen.types(" is whole\r")
    screen.shows("it is sent", lambda lines: lines[-1:] == [PROMPT] and "Sent" in "".join(lines))
    assert scripts.broker.bodies(scripts.queue) == [f"{typed} is whole"]


@pytest.mark.parametrize("columns", [200, 30])
def test_a_message_does_not_change_what_is_sent(scripts: Scripts, relay: Relay, columns: int) -> None:
    """Where the line wraps, or the cursor is in the middle, it may look odd."""
    screen = Screen(scripts, "--no-admin", columns=columns, AMQP_URL=relay.url)
    screen.shows("the prompt", lambda lines: lines[-1:] == [PROMPT])
    screen.types("delete everything and all the rest")
    screen.types("\x01" + "\x1b[C" * 7)  # to the beginning, and seven steps to the right
    relay.cut()
    screen.shows("it is told", lambda lines: "again." in "".join(lines))
    screen.types("NOT \r")
    screen.shows("it is sent", lambda lines: lines[-1:] == [PROMPT] and "Sent" in "".join(lines))
    assert scripts.broker.bodies(scripts.queue) == ["delete NOT everything and all the rest"]


def test_without_standard_error_there_is_a_prompt_all_the_same(scripts: Scripts) -> None:
    shell = f"exec {' '.join(scripts.command('emitter_of_tasks.py'))} 2>&-"
    terminal = pexpect.spawn("sh", ["-c", shell], env=scripts.environment, encoding="utf-8")
    with contextlib.closing(terminal):
        terminal.expect_exact(QUESTION)
        terminal.sendline("n")
        terminal.expect_exact(PROMPT)
        terminal.sendline("task")
        terminal.expect_exact(" [x] Sent task")


def test_without_readline_the_prompt_comes_back_too(scripts: Scripts, relay: Relay) -> None:
    screen = Screen(scripts, "--no-admin", AMQP_URL=relay.url, **without_readline(scripts))
    screen.ends_with(PROMPT)
    screen.types("half")
    screen.ends_with(f"{PROMPT} half")
    relay.cut()
    screen.shows("the message", lambda lines: " [*] Connected again." in lines and lines[-1:] == [PROMPT])
    screen.types(" a task\r")
    screen.shows("it is sent", lambda lines: " [x] Sent half a task" in lines)


def test_a_message_comes_above_the_question_too(scripts: Scripts, relay: Relay) -> None:
    screen = Screen(scripts, AMQP_URL=relay.url)
    screen.ends_with(QUESTION)
    relay.cut()
    screen.shows("the message", lambda lines: " [*] Connected again." in lines and lines[-1:] == [QUESTION])
    assert sum(QUESTION in line for line in screen.lines) == 1
    screen.types("n\r")
    screen.ends_with(PROMPT)


def test_a_message_goes_where_standard_error_goes(scripts: Scripts, relay: Relay) -> None:
    errors = scripts.folder / "errors"
    shell = f"exec {' '.join(scripts.command('emitter_of_tasks.py', '--no-admin'))} 2> {errors}"
    terminal = pexpect.spawn("sh", ["-c", shell], env={**scripts.environment, "AMQP_URL": relay.url}, encoding="utf-8")
    with contextlib.closing(terminal):
        terminal.expect_exact(PROMPT)
        relay.cut()
        eventually(lambda: "Connected again." in errors.read_text(), "it is said")
        terminal.sendline("task")
        terminal.expect_exact(" [x] Sent task")
        assert "Reconnecting" not in terminal.before


def test_a_task_that_is_typed_while_rabbitmq_is_away_is_told_of_and_sent_later(scripts: Scripts, relay: Relay) -> None:
    screen = Screen(scripts, "--no-admin", AMQP_URL=relay.url)
    screen.ends_with(PROMPT)
    port = int(relay.url.split(":")[-1].split("/")[0])
    relay.close()
    screen.shows("it is lost", lambda lines: " [*] Reconnecting ..." in lines and lines[-1:] == [PROMPT])
    screen.types("task\r")
    screen.shows("it is told", lambda lines: " [*] RabbitMQ is away. The task is sent when it is back." in lines)
    with contextlib.closing(Relay(scripts.broker.node.amqp_port, at=port)):
        screen.ends_with(" [x] Sent task", PROMPT)
