"""What all commands need of this machine: packages, a virtual environment, and signals that end them."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
WINDOWS = os.name == "nt"
VENV_PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
ENDING = [each for each in signal.Signals if each.name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")]

# How each package manager installs without asking, and the names of RabbitMQ's packages there.
# Debian's is tested in every release of this project; the others follow their documentation.
PACKAGE_MANAGERS = {
    "apt-get": ["apt-get update -qq", "apt-get install -qq -y --no-install-recommends"],
    "dnf": ["dnf install -q -y"],
    "zypper": ["zypper --non-interactive --quiet install"],
    "pacman": ["pacman -S --noconfirm --needed"],
    "brew": ["brew install"],
}
OTHER_NAMES = {("pacman", "rabbitmq-server"): "rabbitmq", ("brew", "rabbitmq-server"): "rabbitmq"}


class CommandError(Exception):
    """A command can't do its work; the text says why, for the person at the terminal."""


class SetupError(CommandError):
    """The machine can't be set up without its owner's help; the text says what to do."""


def say(text: str) -> None:
    """Print a line at once."""
    print(f"{text}\n", end="", flush=True)  # in one piece, or lines of several threads run into each other


def install(*packages: str) -> None:
    """Install system packages without asking; where that needs a password, SetupError has the command for it."""
    manager = next((name for name in PACKAGE_MANAGERS if shutil.which(name)), None)
    if manager is None:
        raise SetupError(
            f"Please install {' '.join(packages)} (for RabbitMQ: https://www.rabbitmq.com/docs/download), "
            "or set AMQP_URL to a RabbitMQ that runs elsewhere."
        )
    names = [OTHER_NAMES.get((manager, package), package) for package in packages]
    commands = [*PACKAGE_MANAGERS[manager][:-1], " ".join([PACKAGE_MANAGERS[manager][-1], *names])]
    sudo = [] if manager == "brew" or is_root() else ["sudo", "-n"]
    if sudo and not succeeds([*sudo, "true"]):
        by_hand = " && ".join(f"sudo {command}" for command in commands)
        raise SetupError(f"{' '.join(names)} is needed. Please run:\n\n    {by_hand}\n\nand then this command again.")
    say(f"Installing {' '.join(names)} with {manager} (about half a minute) ...")
    for command in commands:
        run([*sudo, *command.split()], is_shown=manager == "brew")  # which takes minutes, and says what it does


def is_root() -> bool:
    """Tell whether this process runs as root."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def succeeds(command: list[str]) -> bool:
    """Tell whether a command exists and ends with exit status 0."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def run(command: list[str], is_shown: bool = False) -> None:
    """Run a step of the set-up without asking. If it fails, SetupError has what it printed."""
    done = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=None if is_shown else subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed:\n{(done.stdout or '')[-2000:]}")


def run_in_venv(*requirements: str) -> None:
    """Continue in the project's virtual environment, made if it is missing, with these requirement files installed."""
    if not succeeds([str(VENV_PYTHON), "-c", "import pip"]):
        if not succeeds([sys.executable, "-c", "import ensurepip, venv"]):
            install("python3-venv")
        say("Making .venv ...")
        shutil.rmtree(VENV, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(VENV)])
    for name in requirements:
        file = PROJECT / name
        mark = VENV / f"installed-{name.replace('/', '-')}"
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if not mark.exists() or mark.read_text() != digest:
            say(f"Installing {name} ...")
            pip_install("-r", str(file))
            mark.write_text(digest)
    if Path(sys.prefix).resolve() != VENV.resolve():
        command = [str(VENV_PYTHON), *sys.argv]
        if not WINDOWS:
            os.execv(VENV_PYTHON, command)
        # There execv() would return to the prompt at once. Ctrl+C reaches both, and is for the other one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(subprocess.run(command).returncode)


def pip_install(*arguments: str) -> None:
    """Install Python packages into the virtual environment."""
    run([str(VENV_PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments])


def clean_environment() -> dict[str, str]:
    """Return the environment without the scripts' settings, for processes that get their own settings."""
    return {name: value for name, value in os.environ.items() if name not in ("AMQP_URL", "TASK_QUEUE")}


def let_children_hear_signals() -> None:
    """Let processes that we start hear what we ignore after nohup or `&`: SIG_IGN is inherited, and no handler is."""
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def run_main(main: Callable[[], int]) -> None:
    """Run a command, and exit with the status that it returns; 1 after a CommandError, 130 after Ctrl+C.

    `kill`, or closing the terminal, acts like Ctrl+C: it ends the command and everything that it started.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as after nohup
            signal.signal(number, interrupt)
    try:
        status = main()
    except CommandError as error:
        print(error, file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        status = 130
    sys.exit(status)
