"""URLs that make no sense, or lead to where no AMQP is spoken, and what is said of them."""

from __future__ import annotations

import re
import socket
import ssl

import emitter_of_tasks
import pytest
import trustme
from harness import Scripts
from scripted_server import Server
from tls import tls_server

from task_queue.settings import DEFAULT_URL, nodes_in, settings_for
from task_queue import SettingsError
from task_queue.admin_panel import answers

FORM = "is not a URL like amqp://user:password@host:5672/virtual-host (percent-encode special characters: / is %2F"
UNREADABLE = "has ssl_options that can't be used: /no/such.pem can't be read"
NONSENSE = {  # and the words for it
    "amqp://u:p@h/?foo=1": FORM,
    "amqp://u:p@h/?heartbeat=soon": FORM,
    "amqp://u:p@h/?heartbeat=70000": "has a heartbeat of more than 65,535, or a frame_max of less than 8,192.",
    "amqp://u:p@h/?frame_max=4096": "or a frame_max of less than 8,192.",
    "amqp://u:p@h/?tcp_options=[": FORM,
    "amqp://h?ssl_options=(": FORM,
    "amqps://u:p@h/?ssl_options={'ca_certs':'/no/such.pem'}": UNREADABLE,
    "amqps://h/?ssl_options={'certfile':'/no/such.pem'}": UNREADABLE,
    "amqps://u:sec.pem@h/?ssl_options={'ca_certs':'sec.pem'}": "has ssl_options that can't be used: [Errno 2] ",
    f"amqps://h/?ssl_options={{'ca_certs':'{__file__}'}}": "can't be used: [X509: NO_CERTIFICATE_OR_CRL_FOUND]",
    "amqp://u:p@h/one/two": "/ is %2F",
    "amqp://u:p@h:port/": FORM,
    "amqp://u@h/": FORM,
    "amqp://u:p@sec?ret=1@h/": FORM,
    "amqp://u:sec?ret=1@h/": FORM,
    "amqp://u:sec/ret@h/": FORM,
    "amqp://u:sec#ret@h/": FORM,
    "amqp://localhost/?secret=1": FORM,
    "https://u:p@h": FORM,
    "amqp://u:p@h/,amqp://u:p@h/?foo=1": FORM,
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
    ("name", "is_one"),
    [
        *((name, True) for name in ("tasks", "amqp-tasks", "amq", "tasks.2026", "größe", "with space", "x" * 242)),
        *((name, False) for name in ("amq.tasks", "amq.", "", " ", "a\nb", "x" * 243, "ö" * 122)),
    ],
)
def test_a_queue_may_have_any_name_that_rabbitmq_takes_for_it_and_its_dead_letters(name: str, is_one: bool) -> None:
    if is_one:
        assert settings_for(DEFAULT_URL, name, "name", 0).queue == name
    else:
        with pytest.raises(SettingsError, match="a queue's name is printable"):
            settings_for(DEFAULT_URL, name, "name", 0)


def test_each_node_that_takes_no_emitter_is_named_with_the_reason(scripts: Scripts) -> None:
    """Also `//` at the end of a URL, a habit from Celery, where it stands for the virtual host /."""
    url, panel = scripts.broker.url, scripts.broker.node.admin_url
    nodes = {
        url.replace("%2F", "/"): "has no virtual host .\nIn a URL, / is written /%2F.",
        url.replace("%2F", "it's"): "has no virtual host it's.",
        panel.replace("http://", "amqp://guest:guest@"): "Or the admin panel's? AMQP has another one, 5672.",
        "amqp://rabbit..example/": "No machine named rabbit..example is known",
        "amqp://no-such-host.invalid": "No machine named no-such-host.invalid is known",
        "amqp://[::1]:1/": "Nothing listens at [::1]:1: ",
    }
    run = scripts.emit("task", "--url", ",".join(nodes), status=1)
    for words in nodes.values():
        assert words in run.err


def test_a_server_that_wants_a_certificate_says_so_and_gets_it(at_server: Scripts) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(at_server.folder / "ca.pem"))
    authority.issue_cert("us").private_key_and_cert_chain_pem.write_to_path(str(at_server.folder / "client.pem"))
    own = authority.issue_cert("localhost")
    with (
        tls_server(own, clients=authority, version=ssl.TLSVersion.TLSv1_2) as older,
        tls_server(own, clients=authority, version=ssl.TLSVersion.TLSv1_3) as newer,
    ):
        urls = [f"amqps://localhost:{port}/?ssl_options={{'ca_certs':'ca.pem'}}" for port in (older, newer)]
        run = at_server.emit("task", "--url", ",".join(urls), status=1)
        for port in (older, newer):  # a server may hang up before its alert is read
            assert re.search(f"localhost:{port} (ended the connection|was lost)|No TLS with localhost:{port}", run.err)
        assert "Does it want a certificate of yours, as docs/operations.md shows it?" in run.err
        urls = [url.replace("}", ",'certfile':'client.pem'}") for url in urls]
        run = at_server.emit("task", "--url", ",".join(urls), status=1)
        assert "No TLS" not in run.err, "it was let in"


# ---- The admin panel


def test_the_panel_is_that_of_the_first_node(at_server: Scripts, server: Server) -> None:
    urls = f"amqp://127.0.0.1:1,{server.url.replace('127.0.0.1', 'localhost')}"
    run = at_server.emit("task", "--admin", "--url", urls, env={"BROWSER": "true"})
    assert run.lines[0] == " [*] RabbitMQ's admin panel: http://127.0.0.1:15672/#/queues (user guest, password guest)"
    assert run.lines[-1] == " [x] Sent task"


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://panel.example/#/queues", [("panel.example", 80)]),
        ("https://panel.example/rabbitmq/", [("panel.example", 443)]),
        ("https://panel.example:15671/", [("panel.example", 15671)]),
        ("http://[::1]:15672/", [("::1", 15672)]),
        ("http://panel.example:port/", []),
    ],
)
def test_a_panel_may_use_https_and_any_port(
    monkeypatch: pytest.MonkeyPatch, url: str, asked: list[tuple[str, int]]
) -> None:
    listener, peer = socket.socketpair()
    where: list[object] = []
    monkeypatch.setattr("socket.create_connection", lambda address, _timeout: where.append(address) or peer)
    with listener, peer:
        assert answers(url) == bool(asked)
    assert where == asked


# ---- Flags and words

COMMAND_LINES = {
    "--queue q First task.": ("q", "First task."),
    "First task. --queue q": ("q", "First task."),
    "--queue q -- --version": ("q", "--version"),
    "-- --queue q": (None, "--queue q"),
    "a -- b -- c": (None, "a b -- c"),
}


@pytest.mark.parametrize(("line", "then"), COMMAND_LINES.items(), ids=COMMAND_LINES)
def test_flags_stand_before_or_behind_the_words(
    monkeypatch: pytest.MonkeyPatch, line: str, then: tuple[str | None, str]
) -> None:
    monkeypatch.setattr("sys.argv", ["emitter_of_tasks.py", *line.split()])
    chosen = emitter_of_tasks.settings()
    assert (chosen.queue, chosen.task) == then


@pytest.mark.parametrize(
    "line",
    [
        "--nonsense",
        "First --nonsense task.",
        "--file a --file",
        "First --file a",
        "--retry-dead-letters First",
        "--retry-dead-letters --passive",
    ],
)
def test_flags_that_make_no_sense_are_an_error_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    monkeypatch.setattr("sys.argv", ["emitter_of_tasks.py", *line.split()])
    with pytest.raises(SystemExit) as ended:
        emitter_of_tasks.settings()
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


# ---- Whose header it is that counts the tries

COUNTS = [  # redelivered, headers, the try
    (False, {}, 0),
    (False, {"x-delivery-count": 20}, 0),
    (True, {}, 0),
    (True, {"x-delivery-count": 3}, 3),
    (True, {"x-delivery-count": 20, "x-acquired-count": 2}, 2),
    (True, {"x-delivery-count": 2, "x-acquired-count": 20}, 2),
    (True, {"x-acquired-count": 2}, 0),  # handed out, and handed back
    (True, {"x-delivery-count": "20"}, 0),
    (True, {"x-delivery-count": True}, 0),
    (True, {"x-delivery-count": -5}, 0),
]


def test_a_clients_own_header_counts_no_tries(at_server: Scripts, server: Server) -> None:
    command = ["--run", "false", "--max-tasks", len(COUNTS), "--log-file", at_server.log]
    worker = at_server.start("listening_worker.py", *command)
    server.gets("Basic.Consume")
    for number, (redelivered, headers, _) in enumerate(COUNTS):
        server.session(0).deliver(b"%d" % number, redelivered, headers=headers)
    worker.ends()
    assert [record["delivery_count"] for record in at_server.events("received")] == [count for _, _, count in COUNTS]
    assert "dead letter now" not in worker.out
