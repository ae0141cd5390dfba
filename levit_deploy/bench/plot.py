"""A benchmark as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from levit_deploy.extras import require_extra
from levit_deploy.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_plotting() -> None:
    """Raise UsageError if matplotlib is not installed, before anything is timed."""
    require_extra("bench", ("matplotlib",), "--plot")


def plot(data: dict[str, Any], destination: str) -> None:
    """Draw the speed of every form against the plain export as PNG, one panel a batch size.

    ``data`` is ``report.benchmark_data``; the line on a bar spans the quartiles over the rounds.
    """
    draw(data).savefig(destination, format="png", dpi=150)


def draw(data: dict[str, Any]) -> Figure:
    """The figure that ``plot`` writes."""
    from matplotlib.figure import Figure

    sizes = sorted({row["batch_size"] for row in data["rows"]})
    most = max(sum(row["batch_size"] == size for row in data["rows"]) for size in sizes)
    figure = Figure(figsize=(6.4 * len(sizes), 1.6 + 0.34 * most), layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False)[0]
    for panel, size in zip(panels, sizes, strict=True):
        rows = [row for row in data["rows"] if row["batch_size"] == size]
        runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
        rows.sort(key=lambda row: runtimes.index(row["runtime"]))
        rows.reverse()  # bars are drawn from the bottom up
        ratios = [row["ratio"] for row in rows]
        colours = {"faster": "#2a7f62", "slower": "#b4553f", "level": "#8a8a8a"}
        panel.barh(
            range(len(rows)),  # bars of one name would be drawn over each other
            [ratio["median"] for ratio in ratios],
            tick_label=[f"{row['name']}, {row['runtime']}" for row in rows],
            xerr=[
                [ratio["median"] - ratio["low"] for ratio in ratios],
                [ratio["high"] - ratio["median"] for ratio in ratios],
            ],
            color=[colours[row["verdict"]] for row in rows],
            ecolor="#333333",
        )
        for place, row in enumerate(rows):
            panel.annotate(
                f" {row['ratio']['median']:.2f}x, {row['median_s'] * 1000:.1f} ms",
                (row["ratio"]["high"], place),
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        panel.axvline(1, color="#333333", linewidth=0.8)
        panel.margins(x=0.3, y=0.01)
        panel.set_title(f"batch {size}")
        panel.set_xlabel("speed against the plain export")
    threads = counted(data["threads"], "thread")
    figure.suptitle(f"{data['network']}, {threads}, {data['processor']}", fontsize=9)
    return figure
