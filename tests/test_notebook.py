"""A notebook, in a real kernel of Jupyter: the scripts ask there, and an interruption ends the cell and no more."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
from collections.abc import Iterator

import pytest
from harness import PROJECT, Scripts
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec
from scripted_server import Server, bodies
from waiting import eventually

QUESTION, PROMPT = "Would you like to monitor RabbitMQ queues? y or n: ", "Enter new task: "
SLEEP = "print('sleeping', flush=True); import time; time.sleep(1000)"


class Notebook:
    """Runs cells in a kernel, one after the other."""

    def __init__(self, scripts: Scripts) -> None:
        self._manager = KernelManager()
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self._manager._kernel_spec = KernelSpec(argv=command, display_name="Python", language="python")
        self._manager.start_kernel(cwd=str(PROJECT), env={**os.environ, **scripts.environment})
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)

    def run(self, cell: str, *answers: str, interrupt_at: str = "") -> str:
        """Run a cell, answer its questions, interrupt it at some output or at a question without an answer."""
        self.said, self._answers, self._interrupt_at = "", [*answers], interrupt_at
        self._cell = self._client.execute(cell, allow_stdin=True)
        eventually(self._is_done, f"the cell ends: {cell}")
        return self.said

    def _is_done(self) -> bool:
        with contextlib.suppress(queue.Empty):
            self.said += self._client.get_stdin_msg(timeout=0.01)["content"]["prompt"]
            if self._answers:
                self._client.input(self._answers.pop(0))
            else:
                self._manager.interrupt_kernel()
        with contextlib.suppress(queue.Empty):
            message = self._client.get_iopub_msg(timeout=0.01)
            content = message["content"]
            self.said += content.get("text", "") + content.get("ename", "")
            if self._interrupt_at and self._interrupt_at in self.said:
                self._interrupt_at = ""
                self._manager.interrupt_kernel()
            is_of_cell = message["parent_header"].get("msg_id") == self._cell
            return is_of_cell and content.get("execution_state") == "idle"
        return False

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()


@pytest.fixture
def notebook(at_server: Scripts) -> Iterator[Notebook]:
    with contextlib.closing(Notebook(at_server)) as it:
        yield it


def test_both_scripts_run_in_cells_and_can_be_interrupted_again_and_again(notebook: Notebook, server: Server) -> None:
    server.put(b"a long task" + b"." * 1000)
    for number in range(2):
        said = notebook.run("%run emitter_of_tasks.py", "n", f"task {number}")
        assert " [*] Sending tasks to queue tasks at " in said
        assert (said.count(QUESTION), said.count(PROMPT)) == (1, 2)
        assert f" [x] Sent task {number}\n" in said
        said = notebook.run("%run listening_worker.py", interrupt_at="1 of 1000")
        assert said.endswith(" [*] Stopped.\n")
        assert "Not finished, so it goes back to the queue: a long task" in said
        assert "KeyboardInterrupt" in notebook.run(SLEEP, interrupt_at="sleeping")
    assert bodies(server) == ["task 0", "task 1"]


def test_a_worker_in_a_cell_is_interrupted_with_it(notebook: Notebook, server: Server) -> None:
    server.put(b"task")
    cell = "from listening_worker import listen\nlisten(lambda task: print('did', task.text))"
    said = notebook.run(cell, interrupt_at="Done.")
    assert "did task\n [x] Done.\n" in said
    assert said.endswith(" [*] Stopped.\nKeyboardInterrupt")
    handlers = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert "True" in notebook.run(handlers)
