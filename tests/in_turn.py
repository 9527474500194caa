"""Which tests run one after the other, in one process, while all others go to whichever process is free."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

IN_TURN = {  # by a fixture that they use
    "mortal_node",  # one for all, because to start a RabbitMQ takes long
    "asked_for",  # whose queue has the name that is the default
    "copy",  # of the demo, which should leave no queue behind
}


def tell(items: list[pytest.Item], folder: Path) -> None:
    """Have the process that hands out the tests know: it collects none itself."""
    fixtures = {item.nodeid: IN_TURN & {*getattr(item, "fixturenames", ())} for item in items}
    own = folder / f"in_turn.{os.getpid()}"
    own.write_text(json.dumps({test: found.pop() for test, found in fixtures.items() if found}))
    own.rename(folder / "in_turn")  # whole, and the same from every process


class Scheduler(LoadScopeScheduling):
    """Hands out the tests. By itself `--dist loadgroup` of pytest-xdist 3.8 finds no groups under pytest 9.2."""

    def __init__(self, config: pytest.Config, log: Any, folder: Path) -> None:
        super().__init__(config, log)
        self._file = folder / "in_turn"

    def schedule(self) -> None:
        self._in_turn = json.loads(self._file.read_text())
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return str(self._in_turn.get(nodeid, nodeid))
