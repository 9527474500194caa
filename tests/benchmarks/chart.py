"""The picture of the results: publishers, workers, ever more workers, and uneven tasks."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from bench import Results, median
from matplotlib import pyplot
from matplotlib.axes import Axes

OURS, OTHERS, IDEAL = "#e8590c", "#868e96", "#ced4da"


def draw(figures: dict[str, Results], file: Path) -> None:
    """Draw the picture into a file."""
    pyplot.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "1"})
    picture, (publishers, workers, scale, uneven) = pyplot.subplots(
        4, figsize=(11, 13), height_ratios=[11, 11, 4, 3], layout="constrained", facecolor="white"
    )
    bars(publishers, "Publishing, all confirmed: tasks a second (more is better)", figures["publishers"])
    bars(workers, "One worker, tasks that are no work: tasks a second (more is better)", figures["workers"])
    crowd(scale, figures["scale"])
    bars(uneven, "Uneven tasks, 4 workers: time (less is better)", figures["uneven"], "{:.2f}", best_first=False)
    picture.savefig(file, metadata={"Date": None}, bbox_inches="tight", pad_inches=0.25)


def bars(axes: Axes, title: str, results: Results, form: str = "{:,.0f}", best_first: bool = True) -> None:
    """Draw a bar for each contender, ours in colour."""
    middle = {name: median(results, name) for name in results}
    names = sorted(middle, key=lambda name: middle[name], reverse=best_first)
    is_ours = [name.startswith(("emitter", "listening", "prefetch 1")) for name in names]
    drawn = axes.barh(names, [middle[name] for name in names], color=[OURS if ours else OTHERS for ours in is_ours])
    axes.bar_label(drawn, [form.format(middle[name]) for name in names], padding=4)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.invert_yaxis()
    axes.margins(x=0.15)
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
