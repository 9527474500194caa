"""Draws who did what when, from the records of `--log-file`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Runs = dict[str, list[Record]]

PAPER, INK, FAINT = "#ffffff", "#24313f", "#8795a3"
LONG, SHORT, IDLE = "#d9822b", "#3f7cac", "#eef1f4"
LONG_FROM = 4  # dots


def draw(runs: Runs, file: Path) -> None:
    """Draw the runs side by side on one time scale: their names, and the records of each."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "tasks", "font.size": 12, "text.color": INK})
    from matplotlib import pyplot

    longest = max(map(duration_of, runs.values()))
    figure, panels = pyplot.subplots(
        1, len(runs), figsize=(12, 3.4), sharey=True, facecolor=PAPER, layout="constrained"
    )
    for panel, (title, records) in zip(panels, runs.items()):
        draw_run(panel, title, records)
        panel.set_xlim(0, longest * 1.02)
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)
    figure.supxlabel("seconds  (each box is a task, numbered in the order of sending)", color=INK, size=12)
    figure.savefig(file, metadata={"Date": None})


def draw_run(panel: Any, title: str, records: list[Record]) -> None:
    """Draw one run: a row for each worker, a bar for each task with its number, and the time without a task."""
    names = sorted({record["name"] for record in records})
    start, end = start_of(records), duration_of(records)
    for row, name in enumerate(names):
        done = [record for record in records if record["event"] == "done" and record["name"] == name]
        for record in done:
            finished, dots = when(record) - start, record["task"].count(".")
            left, number = finished - record["seconds"], record["task"].strip(".").split()[-1]
            colour = LONG if dots >= LONG_FROM else SHORT
            panel.barh(row, record["seconds"], left=left, height=0.62, color=colour, edgecolor=PAPER, linewidth=1.5)
            panel.text(left + record["seconds"] / 2, row, number, color=PAPER, ha="center", va="center", size=10)
        free_from = max(when(record) for record in done) - start
        panel.barh(
            row, end - free_from, left=free_from, height=0.62, color=IDLE, edgecolor=FAINT, hatch="///", linewidth=0
        )
        if end - free_from > end / 5:
            words = f"nothing to do for {end - free_from:.1f} s"
            box = {"color": IDLE, "boxstyle": "round"}
            panel.text((free_from + end) / 2, row, words, ha="center", va="center", bbox=box)
    panel.axvline(end, color=INK, linewidth=1.2)
    panel.set_title(f"{title}\nAll done after {end:.1f} s.", color=INK, loc="left", weight="bold")
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(colors=INK, length=0)
    panel.grid(axis="x", color=IDLE)
    panel.set_axisbelow(True)
    for side in panel.spines.values():
        side.set_visible(False)


def start_of(records: list[Record]) -> float:
    """Return when the first task was received."""
    return min(when(record) for record in records if record["event"] == "received")


def duration_of(records: list[Record]) -> float:
    """Return how many seconds it took until the last task was done."""
    return max(when(record) for record in records if record["event"] == "done") - start_of(records)


def when(record: Record) -> float:
    """Return the time of a record, in seconds."""
    return datetime.fromisoformat(record["time"]).timestamp()
