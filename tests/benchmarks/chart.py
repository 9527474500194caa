"""The picture of the results: publishers, workers, ever more workers, and uneven tasks."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from bench import Results, median, ratio
from matplotlib import pyplot
from matplotlib.axes import Axes
from measurements import BARE, C

DRAWN = {"publishers", "workers", "scale", "uneven"}  # measurements
OURS, OTHERS, IDEAL = "#e8590c", "#868e96", "#ced4da"


def draw(figures: dict[str, Results], file: Path) -> None:
    """Draw the picture into a file."""
    pyplot.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "1"})
    picture, (publishers, workers, scale, uneven) = pyplot.subplots(
        4, figsize=(11, 13), height_ratios=[11, 11, 4, 3], layout="constrained", facecolor="white"
    )
    bars(publishers, "Publishing, beside a C program: ratio, and tasks a second", figures["publishers"], C)
    bars(
        workers, "One worker, empty tasks, beside a bare callback: ratio, and tasks a second", figures["workers"], BARE
    )
    crowd(scale, figures["scale"])
    bars(uneven, "Uneven tasks, 4 workers: time, to the best possible (less is better)", figures["uneven"])
    picture.savefig(file, metadata={"Date": None}, bbox_inches="tight", pad_inches=0.25)


def bars(axes: Axes, title: str, results: Results, to: str | None = None) -> None:
    """Draw a bar for each contender, ours in colour: its ratio to one of them, as in the tables."""
    shown = {name: ratio(results, name, to) if to else median(results, name) for name in results}
    names = sorted(shown, key=lambda name: shown[name], reverse=to is not None)
    labels = [f"{shown[name]:.2f}" + (f"  ({median(results, name):,.0f}/s)" if to else "") for name in names]
    is_ours = [name.startswith(("emitter", "listening", "prefetch 1")) for name in names]
    drawn = axes.barh(names, [shown[name] for name in names], color=[OURS if ours else OTHERS for ours in is_ours])
    axes.bar_label(drawn, labels, padding=4)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def crowd(axes: Axes, results: Results) -> None:
    """Draw how much the workers do, the more there are, beside what so many could do at best."""
    workers = [int(name) for name in results]
    parts = [100 / median(results, name) for name in results]
    axes.axhline(100, color=IDEAL, linewidth=3)
    axes.plot(workers, parts, "o-", color=OURS, linewidth=2.5, markersize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(workers, [str(number) for number in workers])
    axes.set_ylim(0, 110)
    axes.set_xlabel("workers on one queue")
    axes.set_title(
        "More workers, tasks of 0.1 s: per cent of the best possible (more is better)", loc="left", fontweight="bold"
    )
