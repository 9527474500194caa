"""The commands of tools/, run as a person runs them, in a copy of the project."""

from __future__ import annotations

from pathlib import Path

from harness import Run, copy_project
from machine import clean_environment

SLOW = 90.0  # seconds, for what takes ten on a machine with nothing else to do


class Copy:
    """A copy of the project, with the virtual environment of this one, which takes long to make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: list[Run] = []
        copy_project(folder)

    def run(self, tool: str, *arguments: str, **environment: str) -> Run:
        python = str(self.folder / ".venv" / "bin" / "python")
        command = [python, str(self.folder / "tools" / tool), *arguments]
        self._runs.append(Run(command, self.folder, {**clean_environment(), **environment}))
        return self._runs[-1]

    def change(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert text.count(old) == 1
        (self.folder / file).write_text(text.replace(old, new))

    def end(self) -> None:
        """End what still runs; nothing should."""
        left = [run for run in self._runs if run.process.poll() is None]
        for run in left:
            run.process.kill()
            run.process.wait()
        assert left == []
        assert self.processes() == []

    def processes(self) -> list[str]:
        """Return the command lines of the processes that run on something in the copy."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                texts = [(process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
            except OSError:
                continue
            if str(self.folder) in "".join(texts):
                found.append(texts[0].replace("\0", " "))
        return found
