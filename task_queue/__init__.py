"""The code behind emitter_of_tasks.py and listening_worker.py: one concept per file."""

try:
    import pika  # noqa: F401
except ModuleNotFoundError:
    import os
    import sys

    from task_queue.system import WINDOWS

    _scripts = os.path.join(".venv", "Scripts" if WINDOWS else "bin")
    _python = os.path.join(_scripts, "python")
    _conda = os.path.isdir(os.path.join(sys.prefix, "conda-meta"))  # it brings no py
    _system_python = ("python" if _conda else "py") if WINDOWS else "python3"  # which opens the Store there
    if os.path.isdir(_scripts):
        _words = f"It is in .venv, so start this with:  {_python} {sys.argv[0]}"
    else:
        _words = (
            f"{_system_python} {os.path.join('tools', 'demo.py')}  installs it, with all that is needed, "
            "and shows a demo. By hand:\n"
            f"{_system_python} -m venv .venv\n{_python} -m pip install -r requirements.txt"
        )
    raise SystemExit(f" [!] The Python package pika is missing. {_words}") from None

from task_queue.failures import Failure, InputError, QueueError, SettingsError, WorkerError

__all__ = ["Failure", "InputError", "QueueError", "SettingsError", "WorkerError"]
