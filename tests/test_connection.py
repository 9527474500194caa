"""A connection that is lost: it is made again, the work goes on meanwhile, and nothing confirmed goes with it."""

from __future__ import annotations

import contextlib
import signal
import threading
from urllib.parse import quote

import pytest
from harness import DEADLINE, Scripts, eventually
from in_process import put, working
from relay import Relay
from scripted_server import Server, nothing


@pytest.mark.parametrize(
    ("script", "arguments", "status"), [("emitter_of_tasks.py", ["task"], 130), ("listening_worker.py", [], 0)]
)
def test_a_signal_in_the_middle_of_the_first_attempt_ends_it(
    at_server: Scripts, server: Server, script: str, arguments: list[str], status: int
) -> None:
    server.on("ProtocolHeader", nothing)
    run = at_server.start(script, *arguments)
    server.gets("ProtocolHeader")
    run.send(signal.SIGTERM)
    run.ends(status)
    assert "Waiting" not in run.out
    assert run.err == ""


def test_a_worker_comes_back_and_a_task_goes_on_meanwhile_and_is_handed_out_again(
    scripts: Scripts, relay: Relay
) -> None:
    worker = scripts.worker("--url", relay.url, "--seconds-per-dot", "0.5", "--log-file", scripts.log)
    relay.cut()
    worker.shows("Reconnecting")
    assert f"The connection to RabbitMQ at 127.0.0.1:{relay.url.split(':')[3][:-4]} was lost" in worker.err
    put(scripts, b"task....")
    worker.shows("1 of 4")
    relay.cut()
    worker.shows("Reconnecting", times=2)
    worker.shows("4 of 4")
    worker.shows("the connection was lost meanwhile: RabbitMQ will hand this task out again")
    worker.shows("Received task.... (redelivered)")
    worker.shows(" [x] Done.")
    worker.send(signal.SIGTERM)
    worker.ends()
    assert [event["event"] for event in scripts.events()] == ["received", "ack-lost", "received", "done"]
    assert scripts.broker.messages(scripts.queue) == []


def test_a_worker_that_reconnects_in_the_middle_of_a_task_holds_no_second_one(scripts: Scripts, relay: Relay) -> None:
    goes_on = threading.Event()

    def received(name: str) -> list[str]:
        return [record["task"] for record in scripts.events("received") if record["name"] == name]

    with working(scripts, lambda _: goes_on.wait(DEADLINE), url=relay.url, name="first"):
        put(scripts, b"long")
        eventually(lambda: received("first") == ["long"], "it has the task")
        relay.cut()
        eventually(lambda: relay.sockets, "it is connected again")
        with working(scripts, lambda _: None, name="second"):
            eventually(lambda: received("second") == ["long"], "the task is handed out again")
            put(scripts, b"short")
            eventually(lambda: received("second") == ["long", "short"], "so is the next one")
            assert scripts.broker.counts(scripts.queue)[1] == 1
        goes_on.set()


def test_reconnecting_goes_round_the_nodes(scripts: Scripts, relay: Relay) -> None:
    refuses = scripts.broker.url.replace(":guest@", ":wrong@")  # for good, and it is passed over all the same
    with contextlib.closing(Relay(scripts.broker.node.amqp_port)) as second:
        worker = scripts.worker("--url", f"{relay.url},{second.url},{refuses}", "--seconds-per-dot", 0)
        tasks = 0

        def serves(node: Relay, other: Relay) -> None:
            nonlocal tasks
            tasks += 1
            task = f"task {tasks}"
            scripts.broker.publish(scripts.queue, task.encode())
            # The one before may be done again, because its ack was cut off; so may this one be handed out again.
            eventually(lambda: "Done." in worker.out.partition(f"Received {task}")[2], f"{task} is done")
            assert node.sockets
            assert not other.sockets

        serves(relay, second)
        relay.cut()
        serves(second, relay)  # though the first would take it again
        second.cut()
        serves(relay, second)
        relay.close()
        serves(second, relay)
        second.cut()
        serves(second, relay)  # by way of the first, which is gone


def test_a_connection_that_an_operator_closes_is_made_again(scripts: Scripts) -> None:
    worker = scripts.worker("--name", scripts.queue)
    api = scripts.broker.api

    def mine() -> list[str]:
        properties = {each["name"]: each.get("client_properties", {}) for each in api("GET", "connections")}
        return [name for name, known in properties.items() if known.get("connection_name") == scripts.queue]

    (connection,) = eventually(mine, "the panel knows the connection")
    api("DELETE", f"connections/{quote(connection)}")
    worker.shows("closed the connection (CONNECTION_FORCED")
    worker.shows("Connected again.")


@pytest.mark.parametrize("method", ["Channel.Close", "Connection.Close"])
def test_an_end_that_is_not_answered_does_not_take_for_ever(at_server: Scripts, server: Server, method: str) -> None:
    server.on(method, nothing)
    emitter = at_server.emitter("task")
    assert emitter.process.wait(DEADLINE) == 0  # not ends(): of a socket that is left open, Python warns
    assert "Traceback" not in emitter.err
