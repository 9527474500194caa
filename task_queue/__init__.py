"""The machinery under both scripts, from the top down: emitter/ and worker/, rabbitmq/, process/, terminal/."""

try:
    import pika  # noqa: F401
except ModuleNotFoundError:
    import os
    import sys

    from task_queue.windows import WINDOWS

    _python = os.path.join(".venv", "Scripts" if WINDOWS else "bin", "python")
    _words = f"It is in .venv, so start this with:  {_python} {sys.argv[0]}"
    if not os.path.isdir(os.path.dirname(_python)):
        _system = "py" if WINDOWS else "python3"
        _words = (
            f"{_system} {os.path.join('tools', 'demo.py')}  installs it, with all that is needed, and shows a demo. "
            f"By hand:\n{_system} -m venv .venv\n{_python} -m pip install -r requirements.txt"
        )
    raise SystemExit(f" [!] The Python package pika is missing. {_words}") from None

from task_queue.exceptions import Failure, InputError, QueueError, SettingsError, WorkerError

__all__ = ["Failure", "InputError", "QueueError", "SettingsError", "WorkerError"]
