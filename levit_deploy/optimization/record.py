"""The record of an optimization: every form with its figures and its fate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from levit_deploy.bench.benchmark import processor_name
from levit_deploy.optimization.candidate import LeftOut
from levit_deploy.optimization.outcome import Optimization, Result
from levit_deploy.report.console import new_table, print_line
from levit_deploy.report.data import Data, versions
from levit_deploy.report.proof import verification_data
from levit_deploy.report.published import quantization_data
from levit_deploy.text import as_utf8, counted


def optimization_data(optimization: Optimization, given: Sequence[str] = ()) -> Data:
    """Everything that is known, as in optimize.json.

    ``given`` are the checkpoint and the options to read it, as on the command line.
    """
    checkpoint, limits = optimization.checkpoint, optimization.limits
    winner = optimization.winner
    images = None if limits.int8 is None else as_utf8(limits.int8.images)
    rows = [_result_data(result, optimization, given) for result in optimization.results]
    return {
        "checkpoint": {"path": as_utf8(checkpoint.path), "sha256": checkpoint.sha256},
        "network": checkpoint.config.variant,
        "winner": winner and winner.candidate.label,
        "path": optimization.path and as_utf8(optimization.path),
        "baseline": optimization.baseline,
        "runtimes": list(optimization.runtimes),
        "threads": limits.threads,
        "batch_size": optimization.wishes.batch_size,
        "constraints": {
            "max_drop": None if limits.int8 is None else limits.int8.max_drop,
            "max_latency_ms": limits.max_latency,
            "max_size_mb": limits.max_size,
            "time_limit_s": limits.time_limit,
        },
        "pictures": images,
        "seconds": optimization.seconds,
        "complete": optimization.complete,
        "remarks": list(optimization.remarks),
        "processor": processor_name(),
        "versions": versions(),
        "candidates": [*rows, *map(_left_out_data, optimization.left_out)],
    }


_UNMEASURED: Data = dict.fromkeys(
    ("command", "median_s", "p90_s", "images_per_s", "speed", "size_bytes", "load_s", "drop")
) | dict.fromkeys(("accuracy", "quantization", "verification", "file", "opset"))


def _left_out_data(form: LeftOut) -> Data:
    return {
        **_UNMEASURED,
        "label": form.label,
        "name": form.name,
        "runtime": form.runtime,
        "format": form.format,
        "layout": form.form.layout,
        "precision": form.form.precision,
        "state": "left out",
        "reason": form.reason,
        "rounds": 0,
    }


def _result_data(result: Result, optimization: Optimization, given: Sequence[str]) -> Data:
    candidate, plan, proof = result.candidate, result.candidate.plan, result.verification
    checkpoint = optimization.checkpoint
    verification = proof and verification_data(proof, checkpoint)
    batch, path, is_winner = (
        optimization.wishes.batch_size,
        optimization.path,
        result.state == "winner",
    )
    return {
        "label": candidate.label,
        "name": candidate.name,
        "runtime": candidate.runtime,
        "format": plan.target.name,
        "layout": plan.layout,
        "precision": plan.precision,
        "opset": candidate.opset,
        "state": result.state,
        "reason": result.reason,
        "command": candidate.command(
            given or (str(checkpoint.path) if checkpoint.files else "CHECKPOINT",),
            judging_options(optimization),
            path.name if is_winner and path is not None else candidate.file_name,
        ),
        "rounds": result.rounds,
        "median_s": result.median_s,
        "p90_s": result.p90_s,
        "images_per_s": None if result.median_s is None else batch / result.median_s,
        "speed": result.speed and dataclasses.asdict(result.speed),
        "size_bytes": result.size_bytes,
        "load_s": result.load_s,
        "drop": result.drop,
        "accuracy": verification and verification["accuracy"],
        "quantization": quantization_data(result.quantization),
        "verification": verification,
        "file": None if result.file is None else as_utf8(result.file),
    }


def judging_options(optimization: Optimization) -> list[str]:
    """The options of ``export`` for a rounded artifact's pictures."""
    int8 = optimization.limits.int8
    if int8 is None:
        return []
    words = ["--images", str(int8.images)]
    if int8.max_drop is not None:
        words += ["--max-drop", f"{int8.max_drop:g}"]
    return [*words, "--confident"] if int8.confident else words


def print_optimization(data: Data, console: Console) -> None:
    """Print the winner, the fate of every form, and the conditions."""
    rows = data["candidates"]
    winner = next((row for row in rows if row["state"] == "winner"), None)
    timed = [row for row in rows if row["rounds"]]
    if timed:
        threads = counted(data["threads"], "thread")
        conditions = f"batch {data['batch_size']}, {threads}, in turns, {data['processor']}"
        print_line(
            console, f"{data['network']}, {conditions}; speeds are against {data['baseline']}"
        )
        console.print(_table(timed))
    for row in rows:
        if row["state"] in ("refused", "excluded", "failed", "left out"):
            print_line(console, f"{row['state']}: {row['label']}. {row['reason']}")
    for remark in data["remarks"]:
        print_line(console, f"note: {remark}")
    if winner is None:
        print_line(console, "winner: none")
        return
    print_line(console, f"winner: {data['winner']}, {winner_words(winner)}")
    print_line(console, f"made again by: {winner['command']}")
    print_line(console, f"verdict: {winner['verification']['verdict']}")
    if data["path"] is not None:
        print_line(console, f"{data['path']}, in {data['seconds']:.0f} seconds")


def winner_words(row: Data) -> str:
    """The figures of a candidate that was proven, in words."""
    lost = "" if row["accuracy"] is None else f", {row['drop']:.2f} points lost"
    return (
        f"{row['speed']['median']:.2f} times as fast: {row['median_s'] * 1000:.2f} ms, "
        f"{row['size_bytes'] / 1e6:.2f} MB{lost}"
    )


def _table(rows: list[Data]) -> Table:
    """Every form under the runtime that runs it, in 100 columns."""
    table = new_table()
    table.collapse_padding = True
    table.add_column("form", no_wrap=True)
    for column in ("ms", "speed, quartiles", "rounds", "MB", "lost"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for runtime in dict.fromkeys(row["runtime"] for row in rows):
        table.add_row(runtime)
        for row in rows:
            if row["runtime"] == runtime:
                table.add_row(*_cells(row))
    return table


def _cells(row: Data) -> list[str]:
    speed = row["speed"]
    return [
        f"  {row['name']}",
        f"{row['median_s'] * 1000:.2f}",
        "" if speed is None else f"{speed['median']:.2f} ({speed['low']:.2f}-{speed['high']:.2f})",
        str(row["rounds"]),
        f"{row['size_bytes'] / 1e6:.2f}",
        "" if row["drop"] is None else f"{row['drop']:.2f}",
        row["state"],
    ]
