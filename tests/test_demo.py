"""The first command, `python3 tools/demo.py`."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest
from harness import Broker
from tools_copy import SLOW, Copy


def demo_queues(broker: Broker) -> list[str]:
    return [queue["name"] for queue in broker.api("GET", "queues") if queue["name"].startswith("demo-")]


def test_the_demo_shows_who_did_what_and_leaves_nothing(copy: Copy, broker: Broker) -> None:
    (copy.folder / "tasks.txt").write_text("one.\ntwo...\nthree.\nfour.\n")
    demo = copy.run("demo.py", "--workers", "2", "--file", "tasks.txt", AMQP_URL=broker.url).ends(within=SLOW)
    assert demo.err == ""
    assert re.search(r"^RabbitMQ \d+\.\d+\.\d+ is up\.$", demo.out, re.MULTILINE)
    for name in ("worker-1", "worker-2"):
        assert f"{name}  |  [*] Waiting for tasks in queue demo-" in demo.out
        assert re.search(rf"^{name}  \|     [1-3] \|   [1-5]\.\d s \| \d", demo.out, re.MULTILINE)
        assert re.search(rf"^{name}  \| +\d=+", demo.out, re.MULTILINE)
    assert "emitter   |  [x] Sent two..." in demo.lines
    assert demo.lines[-1] == "All 4 tasks were sent, received and done exactly once. Nothing is left in the queue."
    assert demo_queues(broker) == []


def test_the_demo_ends_no_worker_that_can_not_hear_it_yet(copy: Copy, broker: Broker) -> None:
    """One of them begins when the other has done everything."""
    beginning = 'if __name__ == "__main__":\n    import gc\n'
    slow = 'import sys\nimport time\n\ntime.sleep(3 * ("worker-2" in sys.argv))\n'
    copy.change("listening_worker.py", beginning, slow + beginning)
    (copy.folder / "tasks.txt").write_text("one\n")
    demo = copy.run("demo.py", "--file", "tasks.txt", AMQP_URL=broker.url).ends(within=SLOW)
    assert "worker-2  |  [*] Stopped." in demo.lines


def test_ctrl_c_in_the_demo_leaves_nothing(copy: Copy, broker: Broker) -> None:
    demo = copy.run("demo.py", AMQP_URL=broker.url)
    demo.shows("1 of 7")
    demo.send(signal.SIGINT)
    demo.ends(130, SLOW)
    assert demo_queues(broker) == []


def test_the_demo_fails_when_one_of_its_scripts_does(copy: Copy, broker: Broker) -> None:
    (copy.folder / "tasks.txt").write_bytes(b"one.\nGr\xf6\xdfe\n")
    demo = copy.run("demo.py", "--file", "tasks.txt", AMQP_URL=broker.url).ends(1, SLOW)
    assert "emitter   |  [!] Line 2 of" in demo.out
    assert "emitter ended with exit status 1." in demo.err
    assert demo_queues(broker) == []


def test_what_the_demo_can_not_start_with_is_said(
    broker: Broker, copy: Copy, run_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("tools/demo.py", "--file", "no.csv") == 2
    assert run_here("tools/demo.py", "--workers", "0") == 2
    said = capsys.readouterr().err
    assert "--file: there is no file no.csv" in said
    assert "--workers: at least one" in said
    (copy.folder / "empty.txt").touch()
    demo = copy.run("demo.py", "--file", "empty.txt", AMQP_URL=broker.url).ends(1, SLOW)
    assert "No task was sent." in demo.err
    demo = copy.run("demo.py", AMQP_URL="amqp://localhost:1").ends(1, SLOW)
    assert (demo.out + demo.err).count("Nothing listens at localhost:1") == 1
