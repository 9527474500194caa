"""The admin panel: whether it is opened, where, and what is said of that."""

from __future__ import annotations

import io
import sys
import webbrowser

import pika
import pytest
from harness import Scripts
from harmful import HARM, SHOWN

from task_queue.admin_panel import offer_panel, wants_panel

SAID = {  # of RabbitMQ's address and the panel's
    ("amqp://guest:guest@127.0.0.1:1/%2F", None): "http://127.0.0.1:15672/#/queues (user guest, password guest)",
    ("amqp://guest:guest@[::1]/%2F", None): "http://[::1]:15672/#/queues (user guest, password guest)",
    ("amqp://learner:se-cret@127.0.0.1", None): "http://127.0.0.1:15672/#/queues",
    ("amqp://learner:se-cret@host", "http://learner:se-cret@127.0.0.1:1/panel"): "http://127.0.0.1:1/panel",
    ("amqp://learner:se-cret@host", f"http://{HARM}"): f"http://{SHOWN}",
}


@pytest.mark.parametrize(("rabbitmq", "panel"), SAID)
def test_the_address_is_said_without_a_password_that_not_everybody_knows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rabbitmq: str, panel: str | None
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: True)
    offer_panel(True, panel, pika.URLParameters(rabbitmq))
    said = capsys.readouterr()
    assert said.out == f" [*] RabbitMQ's admin panel: {SAID[rabbitmq, panel]}\n"
    assert "se-cret" not in said.err


def test_a_panel_that_does_not_answer_is_explained(at_server: Scripts) -> None:
    panel = ("--admin", "--admin-url", "http://localhost:1/#/queues")
    run = at_server.emit(*panel, "task", env={"BROWSER": "false"})
    assert "on RabbitMQ's machine:  rabbitmq-plugins enable rabbitmq_management" in run.err
    assert "(in Docker: take the image rabbitmq:4-management)" in run.err
    assert "open that address in yours" in run.out


@pytest.mark.parametrize("answer", ["y", "YES", " yes ", "n", "NO", " No "])
def test_only_yes_and_no_are_answers_in_any_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    wrong = ["", "maybe", "yesterday", "ja", "nö", "\x1b[A"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*wrong, answer, "n", ""])))
    assert wants_panel() == ("y" in answer.lower())
    assert capsys.readouterr().out.count(" [*] That is no answer: please type y or n.\n") == len(wrong)
