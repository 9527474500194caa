"""The second command, `python3 tools/test.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import installation
import pytest
from debian_root import CHOSEN

LINTERS = ["ruff", "ruff", "mypy", "mypy", "mypy"]


def test_a_release_of_rabbitmq_that_is_not_known_is_a_mistake_in_usage(
    monkeypatch: pytest.MonkeyPatch, run_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CHOSEN, "9.9")
    assert run_here("tools/test.py", "--rabbitmq", "9.9") == 2
    assert re.search(r"'9\.9' \(choose from '?4\.0'?, '?4\.3'?\)", capsys.readouterr().err)
    assert run_here("tools/test.py") == 1
    assert capsys.readouterr().err == "TEST_RABBITMQ is one of 4.0, 4.3, and not 9.9.\n"


@pytest.mark.parametrize(
    ("arguments", "linters", "for_pytest", "release"),
    [
        ([], LINTERS, [], None),
        (["--rabbitmq", "4.3", "-x", "tests/test_core.py"], LINTERS, ["-x", "tests/test_core.py"], "4.3"),
        (["-k", "one or two", "--rabbitmq=4.0", "-v"], [], ["-k", "one or two", "-v"], "4.0"),
        (["-kone"], [], ["-kone"], None),
    ],
)
def test_what_is_not_for_the_tests_command_is_for_pytest_and_with_k_there_are_no_linters(
    monkeypatch: pytest.MonkeyPatch,
    run_here: Callable[..., int],
    arguments: list[str],
    linters: list[str],
    for_pytest: list[str],
    release: str | None,
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv(CHOSEN, "")
    monkeypatch.setattr(installation, "ensure_server", Path)
    monkeypatch.setattr(subprocess, "run", run)
    assert run_here("tools/test.py", *arguments) == 0
    assert [command[2] for command in ran] == [*linters, "pytest"]
    assert ran[-1] == [sys.executable, "-m", "pytest", *for_pytest]
    assert os.environ[CHOSEN] == (release or "")


@pytest.mark.parametrize("verbosity", [0, 1])
def test_with_v_each_lesson_tells_what_it_has_lost(pytestconfig: pytest.Config, verbosity: int) -> None:
    """As pytest's own reports have it, of which some are warnings."""
    said: list[str] = []
    report = SimpleNamespace(nodeid="tests/test_lessons.py::test_one_thing", user_properties=[("lesson", "3 lost")])
    other = SimpleNamespace(nodeid="tests/test_core.py::test_another", user_properties=[])
    stats = {"": [other], "passed": [report, other], "warnings": [SimpleNamespace()]}
    reporter = SimpleNamespace(stats=stats, section=said.append, line=said.append)
    config = SimpleNamespace(get_verbosity=lambda: verbosity)
    (conftest,) = (each for each in pytestconfig.pluginmanager.get_plugins() if hasattr(each, "own_broker"))
    conftest.pytest_terminal_summary(reporter, config)
    assert said == ["lessons", "3 lost: one thing"][: 2 * verbosity]
