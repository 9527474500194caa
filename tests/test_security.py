"""What must not get out, and what must not get in."""

import json
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from harness import PROJECT, Scripts, eventually

from task_queue.failures import SettingsError
from task_queue.settings import nodes_in

SCRIPTS = ["emitter_of_tasks.py", "listening_worker.py"]
PASSWORD = "s3cr3t/&%"  # must be percent-encoded in a URL


@pytest.fixture
def secretive(scripts: Scripts) -> Iterator[Scripts]:
    """The scripts with a user, named like the queue, whose password is worth keeping."""
    broker, user = scripts.broker, scripts.queue
    broker.api("PUT", f"users/{user}", {"password": PASSWORD, "tags": ""})
    broker.api("PUT", f"permissions/%2F/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
    scripts.environment["AMQP_URL"] = broker.url.replace("guest:guest", f"{user}:s3cr3t%2F%26%25")
    yield scripts
    broker.api("DELETE", f"users/{user}")


def tells(text: str) -> bool:
    """Tell whether the password, or what can be taken for its beginning, is in a text."""
    return "s3cr3t" in text


def test_the_password_is_in_no_process_list_no_output_no_log_and_no_client_property(secretive: Scripts) -> None:
    worker = secretive.start("listening_worker.py", "--log-file", secretive.log)
    worker.shows("Waiting")
    emitted = secretive.emit("--log-file", secretive.log, "task.")
    worker.shows("Done.")
    api = secretive.broker.api

    def connections() -> list[dict[str, Any]]:
        return [each for each in api("GET", "connections") if each.get("user") == secretive.queue]

    eventually(lambda: len(connections()) == 1, "the panel knows the connection")
    assert not tells(json.dumps(api("GET", "connections")))
    assert not tells(Path(f"/proc/{worker.process.pid}/cmdline").read_text())
    assert not tells(Path(f"/proc/{worker.process.pid}/comm").read_text())
    api("DELETE", f"permissions/%2F/{secretive.queue}")
    for each in connections():
        api("DELETE", f"connections/{quote(each['name'])}")
    worker.shows(f"does not let user {secretive.queue} into virtual host /")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert not tells(worker.out + worker.err + emitted.out + emitted.err + secretive.log.read_text())


@pytest.mark.parametrize(
    "url",
    [
        "amqp://keeper:s3cr3t@[::1",
        "amqp://keeper:s3cr3t@localhost:port",
        "amqp://keeper:s3cr3t@localhost?heartbeat=s3cr3t",
        "amqp://keeper:s3cr3t@localhost?s3cr3t=1",
        "amqps://keeper:s3cr3t@localhost?ssl_options={'ca_certs': 's3cr3t'}",
        "https://keeper:s3cr3t@localhost",
        "keeper:s3cr3t@localhost",
    ],
)
def test_the_password_is_not_in_what_is_said_of_a_url(url: str) -> None:
    with pytest.raises(SettingsError) as error:
        nodes_in(url)
    assert not tells(str(error.value))


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_password_is_in_no_error_and_no_help(at_server: Scripts, script: str) -> None:
    where = {"AMQP_URL": "amqp://keeper:s3cr3t@localhost:1,amqp://keeper:s3cr3t@no-such-host.invalid"}
    run = at_server.start(script, *["task"][: script.startswith("emitter")], env=where).ends(1)
    assert run.err.startswith(" [!] Nothing listens at localhost:1")
    asked = at_server.start(script, "--help", env=where).ends()
    assert "AMQP_URL" in asked.out
    assert not tells(run.out + run.err + asked.out)


def test_the_address_of_the_admin_panel_holds_no_credentials(secretive: Scripts) -> None:
    browser = secretive.folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {secretive.folder}/opened\n')
    browser.chmod(0o755)
    run = secretive.emit("--admin", "task", env={"BROWSER": str(browser)})
    opened = secretive.folder / "opened"
    eventually(lambda: opened.exists() and opened.read_text(), "the browser is opened")
    assert opened.read_text() == "http://localhost:15672/#/queues\n"
    assert not re.search(f"s3cr3t|{secretive.queue}", run.out + run.err)


NASTY = [
    "; touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "| touch pwned",
    "&& touch pwned",
    "'; touch pwned; '",
    '"; touch pwned; "',
    '\\"$(touch pwned)',
    "> pwned",
    "--help",
    "-c touch pwned",
    "{} {}",
    "%s %n",
    "*",
    "~",
    "$HOME",
    " leading and trailing ",
    "\u202egnp.exe",
]


def test_no_body_reaches_a_shell_or_becomes_an_option_or_a_second_argument(scripts: Scripts) -> None:
    tell = scripts.folder / "tell"
    tell.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\" . >> arguments\n")
    tell.chmod(0o755)
    scripts.emit(stdin="\n".join(NASTY).encode())
    scripts.work("--run", f"{shlex.quote(str(tell))} -- {{}} x{{}}y")
    told = (scripts.folder / "arguments").read_text().split("\0")[:-1]
    assert told == [argument for body in NASTY for argument in ("--", body, f"x{body}y", ".")]
    assert not (scripts.folder / "pwned").exists()


def test_what_the_readme_says_to_do_with_a_shell_is_safe(scripts: Scripts) -> None:
    """The task as an argument of the shell's program, and not as a part of it."""
    scripts.emit(stdin="\n".join(NASTY).encode())
    command = r"""sh -c "printf \"%s\n\" \"$1\" >> done.txt" sh {}"""
    assert command in (PROJECT / "README.md").read_text()
    scripts.work("--run", command)
    assert (scripts.folder / "done.txt").read_text().splitlines() == NASTY
    assert not (scripts.folder / "pwned").exists()
