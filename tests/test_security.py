"""What must not get out, and what must not get in."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import PROJECT, Scripts
from in_process import said_by
from pika import spec
from scripted_server import Server

EMITTER, WORKER = "emitter_of_tasks.py", "listening_worker.py"
SECRET = "s3cr3t"  # the password, or what can be taken for its beginning


def test_the_password_is_in_no_process_list_no_output_no_log_and_no_client_property(
    at_server: Scripts, server: Server
) -> None:
    at_server.environment["AMQP_URL"] = server.url.replace("guest:guest", f"keeper:{SECRET}%2F%26%25")
    worker = at_server.start(WORKER, "--log-file", at_server.log)
    server.put(b"task.")
    worker.shows("Done.")
    emitted = at_server.emit("--log-file", at_server.log, "task.")
    told = [Path(f"/proc/{worker.process.pid}/{file}").read_text() for file in ("cmdline", "comm")]
    starts = [got.method for got in server.got("Connection.StartOk")]
    assert [SECRET in str(start.response) for start in starts] == [True, True]
    told += [str(start.client_properties) for start in starts]
    refusal = spec.Connection.Close(530, "NOT_ALLOWED - access to vhost '/' refused for user 'keeper'", 10, 40)
    server.on("Connection.Open", lambda session, _: session.send(refusal))
    server.session(0).hang_up()
    worker.shows("does not let user keeper into virtual host /")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert SECRET not in "".join([*told, worker.out, worker.err, emitted.out, emitted.err, at_server.log.read_text()])


@pytest.mark.parametrize("script", [EMITTER, WORKER])
def test_the_password_is_in_no_error_and_no_help(at_server: Scripts, script: str) -> None:
    urls = f"amqp://keeper:{SECRET}@localhost:1,amqp://keeper:{SECRET}@no-such-host.invalid"
    _, out, err = said_by(at_server, script, *["task"] * (script == EMITTER), AMQP_URL=urls)
    assert err.startswith(" [!] Nothing listens at localhost:1")
    status, asked, _ = said_by(at_server, script, "--help", AMQP_URL=urls)
    assert status == 0
    assert "AMQP_URL" in asked
    assert SECRET not in out + err + asked


def test_the_address_of_the_admin_panel_holds_no_credentials(at_server: Scripts, server: Server) -> None:
    """And is that of the first node."""
    urls = f"amqp://keeper:{SECRET}@127.0.0.1:1,{server.url.replace('127.0.0.1', 'localhost')}"
    run = at_server.emit("task", "--admin", "--url", urls, env={"BROWSER": "sh -c 'echo %s > opened'"})
    assert (at_server.folder / "opened").read_text() == "http://127.0.0.1:15672/#/queues\n"
    assert run.lines == [" [*] RabbitMQ's admin panel: http://127.0.0.1:15672/#/queues", " [x] Sent task"]
    assert SECRET not in run.err


NASTY = ["; touch pwned", "$(touch pwned)", "`touch pwned`", "'; touch pwned; '", '"; touch pwned; "', "> pwned"]
NASTY += [r"\"$(touch pwned)", "--help", "{} {}", "%s %n * ~ $HOME", " leading and trailing ", "\u202egnp.exe"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            r"""sh -c 'printf "%s\n" "$@" "$(cat)" >> done.txt' sh -- {} 'x{}="{}' "an'other'" """,
            lambda body: ["--", body, f'x{body}="{body}', "an'other'", body],
        ),
        (r"""sh -c "printf \"%s\n\" \"$1\" >> done.txt" sh {}""", lambda body: [body]),  # as the README shows it
    ],
)
def test_no_body_reaches_a_shell_or_becomes_an_option_or_a_second_argument(
    at_server: Scripts, server: Server, command: str, told: Callable[[str], list[str]]
) -> None:
    assert command.startswith("sh -c '") or command in (PROJECT / "README.md").read_text()
    server.put(*(body.encode() for body in NASTY))
    at_server.start(WORKER, "--max-tasks", len(NASTY), "--run", command).ends()
    assert (at_server.folder / "done.txt").read_text().splitlines() == [line for body in NASTY for line in told(body)]
    assert not (at_server.folder / "pwned").exists()
