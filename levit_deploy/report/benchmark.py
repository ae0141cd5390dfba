"""The report of a benchmark."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from levit_deploy.report.console import new_table, print_line
from levit_deploy.report.data import Data, versions
from levit_deploy.text import counted

if TYPE_CHECKING:
    from levit_deploy.bench.benchmark import Benchmark


def benchmark_data(benchmark: Benchmark) -> Data:
    """Every figure of a benchmark, with the conditions and versions."""
    rows = [{**dataclasses.asdict(row), "verdict": row.ratio.verdict} for row in benchmark.rows]
    return {**dataclasses.asdict(benchmark), "rows": rows, "versions": versions()}


def print_benchmark(data: Data, console: Console) -> None:
    """Print a table for each batch size; speeds are against the plain export."""
    threads = "one thread" if data["threads"] == 1 else f"{data['threads']} threads"
    conditions = f"{threads}, {data['rounds']} rounds in turns, {data['processor']}"
    print_line(console, f"{data['network']}, {conditions}")
    for size, gflops in data["gflops"].items():
        console.print(f"batch {size}; matrix products alone run at {gflops:.3g} GFLOP/s")
        console.print(_benchmark_table([r for r in data["rows"] if r["batch_size"] == size]))
    names: dict[tuple[str, str], list[str]] = {}
    for form in data["untimed"]:
        names.setdefault((form["runtime"], form["reason"]), []).append(form["name"])
    for (runtime, reason), forms in names.items():
        which = forms[0] if len(forms) == 1 else counted(len(forms), "form")
        print_line(console, f"not timed: {which} for {runtime}. {reason}")


def _benchmark_table(rows: list[Data]) -> Table:
    """Every form under the runtime that runs it, in 100 columns."""
    table = new_table()
    table.collapse_padding = True
    table.add_column("form", no_wrap=True, max_width=24)  # a longer path must not cut figures
    for column in ("ms", "p90 ms", "images/s", "speed, quartiles", "", "matmul", "MB", "load ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for runtime in dict.fromkeys(row["runtime"] for row in rows):
        table.add_row(runtime)
        for row in rows:
            if row["runtime"] == runtime:
                table.add_row(*_benchmark_row(row))
    return table


def _benchmark_row(row: Data) -> list[str]:
    ratio, size, load = row["ratio"], row["size_bytes"], row["load_s"]
    return [
        f"  {row['name']}",
        milliseconds(row["median_s"]),
        milliseconds(row["p90_s"]),
        f"{row['images_per_s']:.1f}",
        f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})",
        row["verdict"],
        f"{row['of_matmul']:.0%}",
        "" if size is None else f"{size / 1e6:.1f}",
        "" if load is None else f"{load * 1000:.0f}",
    ]


def milliseconds(seconds: float) -> str:
    """With two decimals, unless they say less than the noise and would need the room."""
    return f"{seconds * 1000:.{2 if seconds < 0.1 else 0}f}"
