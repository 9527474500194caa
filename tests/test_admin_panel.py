"""The admin panel: whether it is opened, where, and what is said of that."""

from __future__ import annotations

import io
import socket
import sys
import webbrowser

import pika
import pytest
from harmful import HARM, SHOWN
from scripted_server import Server

from task_queue.emitter.admin_panel import answers, offer_panel

GUEST, LEARNER = "amqp://guest:guest@127.0.0.1:1/%2F", "amqp://learner:se-cret@127.0.0.1"
SAID = {  # of RabbitMQ's address and the panel's
    (GUEST, None): "http://127.0.0.1:15672/#/queues (user guest, password guest)",
    ("amqp://guest:guest@[::1]/%2F", None): "http://[::1]:15672/#/queues (user guest, password guest)",
    (LEARNER, None): "http://127.0.0.1:15672/#/queues",
    (LEARNER, "http://learner:se-cret@se-cret@127.0.0.1:1/panel"): "http://127.0.0.1:1/panel",
    (LEARNER, f"http://{HARM}"): f"http://{SHOWN}",
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


@pytest.mark.parametrize("is_there", [True, False])
def test_y_opens_the_admin_panel_in_the_browser_and_says_what_is_missing(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_there: bool
) -> None:
    panel, opened = f"http://{server.at if is_there else 'localhost:1'}/#/queues", list[str]()
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or is_there)
    wrong = ["", "maybe", "yesterday", "ja", "nö", "\x1b[A"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*wrong, "y" if is_there else " YES ", ""])))
    offer_panel(None, panel, pika.URLParameters(GUEST))
    assert opened == [panel]
    said = capsys.readouterr()
    assert said.out.count(" [*] That is no answer: please type y or n.\n") == len(wrong)
    assert ("Nothing answers there. Switch it on, on RabbitMQ's machine:  rabbitmq-plugins" in said.err) != is_there
    assert ("open that address in yours" in said.out) != is_there


def test_a_panel_may_use_https_and_any_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("socket.create_connection", lambda address, _timeout: asked.append(address) or socket.socket())
    for url in ("http://panel.example/#/queues", "https://panel.example/rabbitmq/", "https://[::1]:15671/"):
        assert answers(url)
    assert asked == [("panel.example", 80), ("panel.example", 443), ("::1", 15671)]
    assert not answers("http://panel.example:port/")
    assert not answers("http://[x")
