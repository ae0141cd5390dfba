"""The report of a file that was written and proven."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.report.console import print_line
from levit_deploy.report.data import Data
from levit_deploy.report.proof import (
    ends,
    head_words,
    kind,
    print_verdict,
    print_verification,
    verification_data,
)
from levit_deploy.text import as_utf8, counted

if TYPE_CHECKING:
    from levit_deploy.pipeline import Published
    from levit_deploy.quantization.outcome import Quantization


_CPUS = {"any": "any processor", "vnni": "processors with VNNI"}


def published_data(published: Published, checkpoint: Checkpoint | None = None) -> Data:
    """Everything known of the file, with its proof."""
    return {
        "path": as_utf8(published.path),
        "layout": published.layout,
        "size_bytes": published.size_bytes,
        "facts": published.facts,
        "passed_over": [] if checkpoint is None else list(checkpoint.passed_over),
        "stated": [] if checkpoint is None else list(checkpoint.stated),
        "assumed": list(published.assumed),
        "quantization": quantization_data(published.quantization),
        "verification": verification_data(published.verification, checkpoint),
    }


def quantization_data(how: Quantization | None) -> Data | None:
    """How a rounded file was made, None for one that is not rounded."""
    if how is None:
        return None
    data = dataclasses.asdict(how)
    if how.speed is not None:
        data["speed"]["verdict"] = how.speed.verdict
    return data


def print_published(data: Data, console: Console) -> None:
    """Print the file, the assumptions, and the proof."""
    facts = "".join(f", {name} {value}" for name, value in data["facts"].items())
    proof = data["verification"]
    print_line(
        console,
        f"{data['path']}: {kind(proof)}, {proof['precision']}, {data['layout']} layout"
        + (f", {head}" if (head := head_words(proof)) else "")
        + f"{ends(proof)}{facts}, {data['size_bytes'] / 1e6:.2f} MB",
    )
    for tensors in data["passed_over"]:
        print_line(console, f"passed over: {tensors}")
    for fact in data["stated"]:
        print_line(console, f"stated: {fact}")
    for assumption in data["assumed"]:
        print_line(console, f"assumed: {assumption}")
    if data["quantization"] is not None:
        for line in quantization_lines(data["quantization"]):
            print_line(console, line)
    print_verification(proof, console)
    print_verdict(proof, console)


def quantization_lines(data: Data) -> Iterator[str]:
    """How a network was quantized: method, cost of each block, blocks left in float, speed."""
    if len(data["errors"]) > 1:
        errors = ", ".join(f"{name} {error:.2%}" for name, error in data["errors"].items())
        processors = _CPUS[data["cpu"]] if data["cpu"] else "NPUs"
        yield (
            f"calibrated by {data['method']} on {counted(data['calibrated_on'], 'picture')}, "
            f"for {processors} (error of the logits: {errors})"
        )
        costs = sorted(data["costs"].items(), key=lambda item: -item[1])
        if costs:
            each = ", ".join(f"{name} {cost:.2%}" for name, cost in costs)
            yield f"cost of each block alone: {each}"
        yield f"left in float: {', '.join(data['left_in_float']) or 'nothing'}"
    else:  # rounded as a whole
        calibrated = data["calibrated_on"]
        how = f"calibrated on {counted(calibrated, 'picture')}" if calibrated else "not calibrated"
        error = data["errors"][data["method"]]
        yield f"rounded: {data['method']}, {how} (error of the logits: {error:.2%})"
    if (speed := data["speed"]) is not None:
        yield (
            f"speed here: {speed['median']:.2f} x the best float32 file ({speed['verdict']}; "
            f"quartiles {speed['low']:.2f} to {speed['high']:.2f})"
        )
