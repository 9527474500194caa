"""The machinery under emitter_of_tasks.py and listening_worker.py: one concept a file."""

try:
    import pika  # noqa: F401
except ModuleNotFoundError:
    raise SystemExit(
        " [!] The Python package pika is missing. Install it with:  python3 -m pip install -r requirements.txt\n"
        "If you have run tools/demo.py, type:  . .venv/bin/activate"
    ) from None

from task_queue.failures import Failure, InputError, QueueError, SettingsError, WorkerError

__all__ = ["Failure", "InputError", "QueueError", "SettingsError", "WorkerError"]
