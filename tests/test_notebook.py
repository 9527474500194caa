"""A notebook, in a real kernel of Jupyter: the scripts ask there, and an interruption ends the cell and no more."""

import contextlib
import os
from typing import Any

from harness import DEADLINE, PROJECT, Scripts
from jupyter_client.manager import start_new_kernel
from scripted_server import Server, bodies

QUESTION, PROMPT = "Would you like to monitor RabbitMQ queues? y or n: ", "Enter new task: "
SLEEP = "print('sleeping', flush=True); import time; time.sleep(1000)"


class Notebook:
    """Runs cells in a kernel, one after the other."""

    def __init__(self, scripts: Scripts) -> None:
        environment = {**os.environ, **scripts.environment}
        self._manager, self._client = start_new_kernel(cwd=str(PROJECT), env=environment)

    def run(self, cell: str, *answers: str, interrupt_at: str = "") -> str:
        """Run a cell, answer its questions, interrupt it at some output or at a question without an answer."""
        said, left, places = "", [*answers], [interrupt_at] * bool(interrupt_at)

        def on_question(message: dict[str, Any]) -> None:
            nonlocal said
            said += message["content"]["prompt"]
            self._client.input(left.pop(0)) if left else self._manager.interrupt_kernel()

        def on_output(message: dict[str, Any]) -> None:
            nonlocal said
            said += message["content"].get("text", "") + message["content"].get("ename", "")
            if places and places[0] in said:
                places.clear()
                self._manager.interrupt_kernel()

        hooks = {"stdin_hook": on_question, "output_hook": on_output}
        self._client.execute_interactive(cell, allow_stdin=True, timeout=DEADLINE, **hooks)
        return said

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def test_both_scripts_run_in_cells_and_can_be_interrupted_again_and_again(at_server: Scripts, server: Server) -> None:
    with contextlib.closing(Notebook(at_server)) as notebook:
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
        cell = "from listening_worker import listen\nlisten(lambda task: print('did', task.text))"
        said = notebook.run(cell, interrupt_at="Done.")
        assert "did a long task" in said
        assert said.endswith(" [*] Stopped.\nKeyboardInterrupt")
        handlers = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        assert "True" in notebook.run(handlers)
