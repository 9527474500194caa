"""How the code is laid out: floors whose imports run downwards, and rooms that stay small."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest
from harness import PROJECT

FLOORS = {
    6: ["emitter_of_tasks", "listening_worker"],
    5: ["report", "work", "run_command", "admin_panel"],
    4: ["dead_letters", "publisher", "consumer"],
    3: ["connection", "encoder"],
    2: ["errors", "event_log", "message", "sources", "outage", "task"],
    1: [
        "loop",
        "signals",
        "handlers",
        "script",
        "outbox",
        "wire",
        "queues",
        "settings",
        "aside",
        "terminal",
        "text",
        "system",
        "prompt",
        "failures",
    ],
    0: ["__init__"],  # which everything imports by its own name
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
SCRIPTS = [PROJECT / f"{name}.py" for name in FLOORS[6]]
FILES = {file.stem: file for file in [*SCRIPTS, *(PROJECT / "task_queue").glob("*.py")]}


def trees() -> dict[str, ast.Module]:
    return {room: ast.parse(file.read_text()) for room, file in FILES.items()}


def imported_by(tree: ast.Module) -> set[str]:
    """Return the rooms that are imported anywhere in a file: inside functions and for type checkers, too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    parts = {name.split(".")[1] for name in names if name.startswith("task_queue.")}
    return (parts | {name for name in names if "." not in name}) & FLOOR_OF.keys()


def arrows() -> dict[str, set[str]]:
    return {room: imported_by(tree) for room, tree in trees().items()}


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines of code there are below the signature and the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body and body[-1].end_lineno else 0


def test_every_room_is_on_a_floor() -> None:
    assert FILES.keys() == FLOOR_OF.keys()


def test_no_arrow_runs_up() -> None:
    up = [(room, other) for room, others in arrows().items() for other in others if FLOOR_OF[other] > FLOOR_OF[room]]
    assert [arrow for arrow in up if arrow[0] != "__init__"] == []
    assert arrows()["__init__"] == {"failures", "system"}, "the words for a missing pika, and the public names"


def test_no_arrows_make_a_circle() -> None:
    graphlib.TopologicalSorter(arrows()).prepare()


def test_only_tests_and_a_users_own_worker_import_a_script() -> None:
    assert [room for room, others in arrows().items() if others & set(FLOORS[6])] == []


@pytest.mark.parametrize("file", FILES.values(), ids=lambda file: file.name)
def test_a_room_is_small_and_says_what_it_owns(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert len(lines) <= 200
    assert lines[lines[0].startswith("#!")].startswith('"""')


def test_a_function_does_one_thing() -> None:
    long = [
        (room, node.name, code_lines(node))
        for room, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and code_lines(node) > 30
    ]
    assert long == []


def test_an_object_has_few_attributes() -> None:
    crowded = []
    for room, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                own = {
                    target.attr
                    for target in ast.walk(node)
                    if isinstance(target, ast.Attribute)
                    and isinstance(target.ctx, ast.Store)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == "self"
                }
                if len(own) > 12:
                    crowded.append((room, node.name, sorted(own)))
    assert crowded == []


def test_only_the_owner_of_signals_installs_handlers_and_nothing_ends_somebody_elses_program() -> None:
    calls = {
        (room, ast.unparse(node.func))
        for room, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    in_the_scripts_first_lines = {(name, "signal.signal") for name in FLOORS[6]}
    owners = {call for call in calls if call[1] in ("signal.signal", "signal.set_wakeup_fd")}
    assert {room for room, _ in owners - in_the_scripts_first_lines} == {"handlers", "script"}
    assert {room for room, function in calls if function == "os._exit"} == {"script"}


def test_every_thread_is_one_that_gets_no_signals() -> None:
    assert [
        room for room, file in FILES.items() if re.search(r"\b(Thread|ThreadPoolExecutor)\(", file.read_text())
    ] == []
