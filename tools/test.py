#!/usr/bin/env python3
"""Checks everything: linter, format, types, and the tests against a RabbitMQ that they start themselves.

    python3 tools/test.py                     everything
    python3 tools/test.py -k lessons -v       arguments go to pytest; with -k, the tests alone
    python3 tools/test.py --rabbitmq 4.3      with this RabbitMQ, instead of the installed one

Installs what is missing first. Leaves no process behind, and touches no RabbitMQ but its own.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys

import debian_root
import installation
import machine

OLD_PIKA = "1.3.2"  # the oldest version that we support
SCRIPTS = ("emitter_of_tasks.py", "listening_worker.py", "task_queue")
CHECKS = (
    ["ruff", "check", *SCRIPTS, "docs", "tools", "tests", "screenshots"],
    ["ruff", "format", "--check", *SCRIPTS, "docs", "tools", "tests", "screenshots"],
    ["mypy", *SCRIPTS, "tools", "screenshots"],
    # Each with a cache of its own, or each would throw the other's away.
    ["mypy", "--cache-dir=.mypy_cache/darwin", "--platform=darwin", *SCRIPTS, "tools"],
    ["mypy", "--cache-dir=.mypy_cache/win32", "--platform=win32", "--always-true=WINDOWS", *SCRIPTS, "tools"],
)


def main() -> int:
    """Install what is missing, run the checks, and return the exit status of the first that fails."""
    usage = f"%(prog)s [--rabbitmq {{{','.join(debian_root.SUITES)}}}] [pytest's arguments]"
    parser = argparse.ArgumentParser(usage=usage, allow_abbrev=False)
    debian_root.add_option(parser)
    options, others = parser.parse_known_args()
    debian_root.choose(options.rabbitmq)
    if machine.WINDOWS:
        raise machine.SetupError("The tests need Linux. On Windows, run this in WSL:  python3 tools/test.py")
    installation.ensure_server()
    if shutil.which("amqp-publish") is None and shutil.which("apt-get"):
        machine.install("amqp-tools")  # another client, to send tasks that the emitter would not
    machine.run_in_venv("requirements.txt", "tests/requirements.txt")
    old_pika = machine.VENV / f"pika-{OLD_PIKA}"
    if not old_pika.exists():
        machine.say(f"Installing pika {OLD_PIKA} beside the newest ...")
        machine.pip_install("--target", str(old_pika), f"pika=={OLD_PIKA}")
    checks = () if any(each.startswith("-k") for each in others) else CHECKS
    for check in (*checks, ["pytest", *others]):
        machine.say(f"--- {' '.join(check)}")
        status = subprocess.run([sys.executable, "-m", *check], cwd=machine.PROJECT).returncode
        if status != 0:
            return status
    return 0


if __name__ == "__main__":
    machine.run_main(main)
