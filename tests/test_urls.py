"""URLs that make no sense, or lead to where no AMQP is spoken, and what is said of them."""

from __future__ import annotations

import signal
import ssl

import pytest
import trustme
from harness import Scripts
from pika import spec
from scripted_server import Server
from tls import tls_server

NONSENSE = {  # and the words for it
    "amqp://u:p@h/?foo=1": "an option that pika does not know, foo. Known are: blocked_connection_timeout, channel",
    "amqp://u:p@h/?heartbeat=soon": "a value that makes no sense for the option heartbeat",
    "amqp://u:p@h/?tcp_options=[": "a value that makes no sense for the option tcp_options",
    "amqps://u:p@h/?ssl_options={'ca_certs':'/no/such.pem'}": "ssl_options whose ca_certs can't be read: /no/such.pem",
    "amqps://h/?ssl_options={'certfile':'/no/such.pem'}": "ssl_options whose certfile can't be read: /no/such.pem",
    "amqp://u:p@h/one/two": "/ is %2F",
    "amqp://u:p@h:port/": "is not a URL like",
    "amqp://u@h/": "is not a URL like amqp://user:password@host",
    "amqp://u:p@sec?ret=1@h/": "percent-encode special characters",
    "amqp://u:sec?ret=1@h/": "percent-encode special characters",
    "amqp://u:sec/ret@h/": "percent-encode special characters",
    "amqp://u:sec#ret@h/": "percent-encode special characters",
    "amqp://localhost/?secret=1": "is not a URL like",
    "https://u:p@h": "is not a URL like",
    "amqp://u:p@h/,amqp://u:p@h/?foo=1": "an option that pika does not know, foo",
}


def test_what_is_wrong_with_a_url_is_said_without_a_part_of_a_password(at_server: Scripts) -> None:
    program = (
        "from listening_worker import listen\n"
        "from task_queue import SettingsError\n"
        f"for url in {list(NONSENSE)!r}:\n"
        "    try:\n"
        "        listen(print, url=url)\n"
        "    except SettingsError as error:\n"
        "        print(error)\n"
    )
    said = at_server.program(program).lines
    assert len(said) == len(NONSENSE)
    for line, (url, words) in zip(said, NONSENSE.items()):
        assert words in line, url
        assert "sec" not in line, url
    run = at_server.emit("task", "--url", "amqp://u:p@h/?foo=1", status=2)
    assert run.err == f" [!] {said[0]}\n"


def test_an_empty_virtual_host_is_not_the_one_that_people_mean(scripts: Scripts) -> None:
    """`//` at the end of a URL is a habit from Celery, where it stands for the virtual host /."""
    url = scripts.broker.url.replace("%2F", "/")
    assert url.endswith("//")
    run = scripts.emit("task", "--url", url, status=1)
    assert "no virtual host with an empty name. A URL for the virtual host / ends in /%2F" in run.err


def test_the_admin_panels_port_is_not_amqps(scripts: Scripts) -> None:
    url = scripts.broker.node.admin_url.replace("http://", "amqp://guest:guest@")
    run = scripts.emit("task", "--url", url, status=1)
    assert "Or the admin panel's? AMQP has another one, 5672." in run.err


def test_a_host_that_is_no_name_is_no_lost_connection(at_server: Scripts) -> None:
    run = at_server.emit("task", "--url", "amqp://rabbit..example/", status=1)
    assert "RabbitMQ at rabbit..example:5672 can't be looked up: that is no name of a machine." in run.err


def test_a_virtual_host_with_a_quote_gets_a_command_that_works(scripts: Scripts) -> None:
    run = scripts.emit("task", "--url", scripts.broker.url.replace("%2F", "it's"), status=1)
    assert """rabbitmqctl add_vhost 'it'"'"'s'""" in run.err


def test_an_address_of_ipv6_is_shown_in_brackets(at_server: Scripts) -> None:
    run = at_server.emit("task", "--url", "amqp://[::1]:1/", status=1)
    assert "Nothing listens at [::1]:1: " in run.err


def test_a_connection_that_is_blocked_for_too_long_is_no_firewall(at_server: Scripts, server: Server) -> None:
    server.on("Basic.Publish", lambda session, _got: session.send(spec.Connection.Blocked("low on memory")))
    run = at_server.emitter("task", "--url", f"{server.url}?blocked_connection_timeout=0.2")
    run.shows("took no tasks for as long as blocked_connection_timeout allows")
    assert "firewall" not in run.err
    run.send(signal.SIGINT)
    run.ends(130)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_certificate_says_so_and_gets_it(at_server: Scripts, version: ssl.TLSVersion) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(at_server.folder / "ca.pem"))
    authority.issue_cert("us").private_key_and_cert_chain_pem.write_to_path(str(at_server.folder / "client.pem"))
    with tls_server(authority.issue_cert("localhost"), clients=authority, version=version) as port:
        url = f"amqps://localhost:{port}/?ssl_options="
        run = at_server.emit("task", "--url", url + "{'ca_certs':'ca.pem'}", status=1)
        assert "wants a certificate of yours: name it in --url with ?ssl_options=" in run.err
        run = at_server.emit("task", "--url", url + "{'ca_certs':'ca.pem','certfile':'client.pem'}", status=1)
        assert "without a word of AMQP" in run.err or "was lost" in run.err, "it was let in"


# ---- Flags between words

COMMAND_LINES = {
    "First --queue q task.": ("q", "First task."),
    "--queue q First task.": ("q", "First task."),
    "First task. --queue q": ("q", "First task."),
    "--queue q -- --version": ("q", "--version"),
    "-- --queue q": ("tasks", "--queue q"),
    "First --queue q -- --version -x": ("q", "First --version -x"),
    "a -- b -- c": ("tasks", "a b -- c"),
    "First --no-admin task.": ("tasks", "First task."),
}


@pytest.mark.parametrize(("line", "then"), COMMAND_LINES.items(), ids=COMMAND_LINES)
def test_flags_may_stand_between_words(at_server: Scripts, server: Server, line: str, then: tuple[str, str]) -> None:
    at_server.environment["TASK_QUEUE"] = "tasks"
    at_server.emit(*line.split())
    (published,) = server.got("Basic.Publish")
    assert (published.method.routing_key, published.body.decode()) == then


@pytest.mark.parametrize("line", ["--nonsense", "First --nonsense task.", "--file a --file", "First --file a"])
def test_flags_that_make_no_sense_are_an_error_wherever_they_stand(at_server: Scripts, line: str) -> None:
    assert "error: " in at_server.emit(*line.split(), status=2).err


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
