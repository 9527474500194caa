"""A connection: where it goes, what is refused before it is made, and that it is made again when it is lost."""

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from harmful import HARM, SHOWN, harmless
from harness import Scripts
from in_process import emitting, said_by, work
from scripted_server import Server, refuse

import emitter_of_tasks
import listening_worker
from task_queue.settings import connection_settings, place

EMITTER, WORKER = SCRIPTS = ["emitter_of_tasks.py", "listening_worker.py"]


def test_a_worker_that_reconnects_in_the_middle_of_a_task_holds_no_second_one(
    at_server: Scripts, server: Server
) -> None:
    ends: list[float] = []

    def perform(_: object) -> None:
        if not ends:
            server.session(0).hang_up()
            server.gets("Basic.Qos", times=2)  # which comes just before a subscription
        ends.append(time.monotonic())

    server.put(b"long", b"short")
    work(at_server, perform)
    assert len(ends) == 3, "the long one is handed out again"
    assert server.session(1).got("Basic.Consume")[0].at > ends[0]


def test_reconnecting_goes_round_the_nodes(new_server: Callable[[], Server]) -> None:
    first, second, refusing = (new_server() for _ in range(3))
    refusing.on("Connection.StartOk", refuse)  # for good, and it is passed over
    with emitting(*(each.url for each in (first, second, refusing))) as emitter:
        for task, node in enumerate((first, second, first, second, second)):
            emitter.send(task)
            emitter.settle()
            assert node.got("Basic.Publish")[-1].body == str(task).encode()
            if task == 2:
                first.close()  # so that the last one comes by way of it
            else:
                node.sessions[-1].hang_up()  # though it would take it again
    assert len(refusing.sessions) >= 2


@pytest.mark.parametrize(
    ("script", "arguments", "why"),
    [
        (EMITTER, ["--file", "a", "word"], "give either words, or --file"),
        (EMITTER, ["--retry-dead-letters", "--passive"], "so it can't be --passive"),
        (EMITTER, ["--file", HARM], f"{SHOWN} can't be read: No such file"),
        (EMITTER, ["--file", "/"], "/ can't be read: Is a directory"),
        (EMITTER, [""], "the task is empty"),
        (EMITTER, ["word", "--from-line", "2"], "--from-line is for --file or a pipe"),
        (EMITTER, ["--file", "a.txt", "--separator", ";"], "--separator for a .csv file"),
        (EMITTER, ["\udcff"], "not text in this terminal's encoding"),  # how Python represents a byte that is not text
        (EMITTER, ["task", "--url", "amqp://u:se/cret@h:x"], "is not a URL like amqp://"),
        (EMITTER, ["task", "--log-file", f"no/{HARM}"], f"The log file no/{SHOWN} can't be opened: No such file"),
        (WORKER, ["--queue", "amq.tasks"], "a queue's name"),
        (WORKER, ["--queue", HARM], "a queue's name"),
        (WORKER, ["--name", "x" * 256], "--name"),
        (WORKER, ["--max-tasks", "0"], "max_tasks must be"),
        (WORKER, ["--max-tasks", HARM], SHOWN),
        (WORKER, ["--seconds-per-dot", "-1"], "--seconds-per-dot"),
        (WORKER, ["--seconds-per-dot", HARM], SHOWN),
        (WORKER, ["--run", f"'no {HARM}'"], f"--run: there is no command no {SHOWN} here"),
        (WORKER, ["--run", f"'{HARM}"], f"--run ''{SHOWN}' is not a command"),
        (WORKER, ["word"], "unrecognized arguments: word"),
    ],
)
def test_usage(at_server: Scripts, server: Server, script: str, arguments: list[str], why: str) -> None:
    status, out, err = said_by(at_server, script, *arguments)
    assert (status, out) == (2, "")
    assert why in harmless(err)
    assert "cret" not in err
    assert err.startswith("usage:") or len(err.splitlines()) <= 2
    assert server.sessions == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_it_loads_is_no_traceback(at_server: Scripts, script: str) -> None:
    (at_server.folder / "pika.py").write_text("import time; print('loading', flush=True); time.sleep(60)")
    run = at_server.start(script, env={"PYTHONPATH": str(at_server.folder)})
    run.shows("loading")
    run.send(signal.SIGINT)
    run.ends(-signal.SIGINT)
    assert run.err == ""


@pytest.mark.parametrize("script", [emitter_of_tasks, listening_worker])
def test_without_settings_it_is_the_queue_tasks_on_this_machine(monkeypatch: pytest.MonkeyPatch, script: Any) -> None:
    for name in ("AMQP_URL", "TASK_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.argv", ["script"])
    flags = script.parsed_flags()
    settings = connection_settings(flags.url, flags.queue, "name", 0)
    (node,) = settings.nodes
    assert settings.queue == "tasks"
    assert (node.host, node.port, node.virtual_host, node.credentials.username) == ("localhost", 5672, "/", "guest")
    assert place(node) == "", "it is not named where it is the usual one"
