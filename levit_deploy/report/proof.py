"""The report of a proof: every error beside the error allowed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.pictures.class_folders import doubtful
from levit_deploy.report.console import new_table
from levit_deploy.report.data import Data, versions
from levit_deploy.verification.result import Verification

if TYPE_CHECKING:
    from levit_deploy.verification.accuracy import Accuracy


def verification_data(verification: Verification, checkpoint: Checkpoint | None = None) -> Data:
    """Every figure of a proof, with its budget, checkpoint and versions."""
    cases = [
        {**dataclasses.asdict(case), "failures": list(case.failures)} for case in verification.cases
    ]
    return {
        "passed": verification.passed,
        "format": verification.format,
        "sha256": verification.sha256,
        "precision": verification.precision,
        "input": verification.interface.input,
        "output": verification.interface.output,
        "head": verification.head,
        "seed": verification.seed,
        "failures": list(verification.failures),
        "parting": verification.parting and dataclasses.asdict(verification.parting),
        "checkpoint": checkpoint and {"path": str(checkpoint.path), "sha256": checkpoint.sha256},
        "versions": versions(),
        "accuracy": verification.accuracy and _accuracy_data(verification.accuracy),
        "blocks": [dataclasses.asdict(block) for block in verification.blocks],
        "unrounded": verification.unrounded and verification_data(verification.unrounded),
        "cases": cases,
        "batches": [
            {**dataclasses.asdict(batch), "failures": list(batch.failures)}
            for batch in verification.batches
        ],
    }


def _accuracy_data(accuracy: Accuracy) -> Data:
    return {**dataclasses.asdict(accuracy), "failures": list(accuracy.failures)}


def print_verified(data: Data, console: Console) -> None:
    """Print the artifact, the head it was held to, and the proof."""
    proof = data["verification"]
    console.print(
        f"{data['path']}: {proof['format']}, {proof['precision']}{ends(proof)}, held to the "
        f"{proof['head']} head",
        soft_wrap=True,
    )
    print_verification(proof, console)


def ends(proof: Data) -> str:
    """The types of input and output, if they are not the usual ones."""
    ends = ", uint8 input" if proof["input"] == "uint8" else ""
    return ends + (", probabilities" if proof["output"] == "probabilities" else "")


def print_verification(data: Data, console: Console) -> None:
    """Print every error of a proof beside the error allowed."""
    if data["unrounded"] is not None:
        console.print("the float network, before rounding:")
        print_verification(data["unrounded"], console)
        console.print(
            "the rounded network; allowed are twice the RMSE and four times the largest error of "
            "the rounding itself:",
            soft_wrap=True,
        )
    if data["output"] == "probabilities":
        console.print("errors are of the log-probabilities:")
    console.print(_errors(data))
    if data["accuracy"] is not None:
        console.print(_accuracy(data["accuracy"]), soft_wrap=True)


def _errors(data: Data) -> Table:
    """A row for each kind of input, and one for the images together."""
    table = new_table(
        "inputs", "images", "RMSE", "allowed", "max error", "allowed", "same top-1", "verdict"
    )
    for case in data["cases"]:
        table.add_row(
            case["name"],
            str(case["images"]),
            f"{case['rmse']:.1e}",
            f"{case['budget']['rmse']:.1e}",
            f"{case['max_error']:.1e}",
            f"{case['budget']['max_error']:.1e}",
            same_top1(case),
            _verdict(case),
        )
    worst = worst_batch(data["batches"])
    table.add_row(
        "together",
        str(sum(batch["size"] for batch in data["batches"])),
        "",
        "",
        f"{worst['difference']:.1e}",
        f"{worst['allowed']:.1e}",
        "",
        _verdict(worst),
    )
    return table


def same_top1(case: Data) -> str:
    """The number of images with the same top-1, of those where it is decided."""
    decided = case["decided"]
    return f"{decided - case['disagreements']}/{decided}" if decided else "none decided"


def _accuracy(data: Data) -> Text:
    """The accuracy of an int8 network on pictures, in one line."""
    line = f"on {data['pictures']} pictures: the same top-1 on {data['agreement']:.2f} %"
    if data["float_top1"] is not None:
        line += f", top-1 {data['float_top1']:.2f} % in float32, {data['int8_top1']:.2f} % in int8"
    line += f"; lost {max(data['drop'], 0):.2f} points of {data['allowed']:g} allowed: "
    text = Text(line) + _verdict(data)
    if data["float_top1"] is not None and (doubt := doubtful(data["float_top1"])):
        text.append(f"\nin float32 {doubt}")
    return text


def worst_batch(batches: list[Data]) -> Data:
    """The batch with the largest error in units of the error allowed."""
    return max(batches, key=lambda batch: batch["difference"] / batch["allowed"])


def _verdict(result: Data) -> Text:
    return Text("FAILED", style="red") if result["failures"] else Text("proven", style="green")
