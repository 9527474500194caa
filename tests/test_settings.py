"""Flags, URLs and names of queues, and what is said of those that make no sense."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trustme

import emitter_of_tasks
from task_queue import SettingsError
from task_queue.settings import DEFAULT_URL, connection_settings, nodes_in

FORM = "is not a URL like amqp://user:password@host:5672/virtual-host (percent-encode special characters: / is %2F"
NONSENSE = {  # and the words for it
    "amqp://u:sec@h/?heartbeat=sec": FORM,
    "amqp://u:p@h/?heartbeat=70000": "has a heartbeat of more than 65,535, or a frame_max of less than 8,192.",
    "amqp://u:p@h/?frame_max=4096": "or a frame_max of less than 8,192.",
    "amqps://u:p@h/?ssl_options={'ca_certs':'/no/%1B.pem'}": r"can't be used: /no/\x1b.pem can't be read",
    "amqps://u:sec.pem@h/?ssl_options={'ca_certs':'sec.pem'}": "has ssl_options that can't be used: [Errno 2] ",
    f"amqps://h/?ssl_options={{'ca_certs':'{pytest.__file__}'}}": "can't be used: [X509: NO_CERTIFICATE_OR_CRL_FOUND]",
    "amqp://u:p@h/one/two": "/ is %2F",
    "amqp://u:sec@h:port/": FORM,
    "amqp://u:sec@[::1": FORM,
    "amqp://u:sec?ret=1@h/": FORM,
    "amqp://u:sec/ret@h/": FORM,
    "amqp://u:sec#ret@h/": FORM,
    "amqp://localhost/?secret=1": FORM,
    "https://u:sec@h": FORM,
    "amqp://u:p@h/,amqp://u:sec@h/?foo=1": FORM,
}


@pytest.mark.parametrize("url", NONSENSE)
def test_what_is_wrong_with_a_url_is_said_without_a_part_of_a_password(url: str) -> None:
    with pytest.raises(SettingsError) as error:
        nodes_in(url)
    said = str(error.value)
    assert said.startswith("--url or AMQP_URL ")
    assert NONSENSE[url] in said
    assert "sec" not in said
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("password", "words"), [("", "is encrypted, and no 'password'"), ("s3cret", "can't be used: ")]
)
def test_an_encrypted_key_needs_its_password_in_the_url_and_nothing_is_asked(
    tmp_path: Path, password: str, words: str
) -> None:
    trustme.CA().issue_cert("us").cert_chain_pems[0].write_to_path(str(certificate := tmp_path / "us.pem"))
    (tmp_path / "us.key").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    options = {"ca_certs": str(certificate), "certfile": str(certificate), "keyfile": f"{tmp_path}/us.key"}
    with pytest.raises(SettingsError, match=re.escape(words)) as raised:
        nodes_in(f"amqps://h/?ssl_options={options | ({'password': password} if password else {})}")
    assert "s3cret" not in str(raised.value)


def test_a_file_of_authorities_that_can_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such.pem")
    assert len(nodes_in("amqp://h")) == 1
    with pytest.raises(SettingsError, match=r"^SSL_CERT_FILE: /no/such\.pem can't be read"):
        nodes_in("amqps://h")


def test_a_queue_may_have_any_name_that_rabbitmq_takes_for_it_and_its_dead_letters() -> None:
    for name in ("tasks", "amqp-tasks", "amq", "tasks.2026", "größe", "with space", "x" * 242):
        assert connection_settings(DEFAULT_URL, name, "name", 0).queue == name
    for name in ("amq.tasks", "amq.", "", " ", "a\nb", "x" * 243, "ö" * 122):
        with pytest.raises(SettingsError, match="a queue's name is printable"):
            connection_settings(DEFAULT_URL, name, "name", 0)


COMMAND_LINES = {  # the queue and the task
    "--queue q First task.": ("q", "First task."),
    "First task. --queue q": ("q", "First task."),
    "--queue q -- --version": ("q", "--version"),
    "-- --queue q": (None, "--queue q"),
}


@pytest.mark.parametrize(("line", "then"), COMMAND_LINES.items(), ids=COMMAND_LINES)
def test_flags_stand_before_or_behind_the_words(
    monkeypatch: pytest.MonkeyPatch, line: str, then: tuple[str | None, str]
) -> None:
    monkeypatch.setattr("sys.argv", ["emitter_of_tasks.py", *line.split()])
    chosen = emitter_of_tasks.parsed_flags()
    assert (chosen.queue, chosen.task) == then
