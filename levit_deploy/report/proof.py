"""The report of a proof: every error beside the error allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import ROUNDED
from levit_deploy.interface import COMPARED
from levit_deploy.pictures.class_folders import doubtful
from levit_deploy.report.console import new_table, print_line
from levit_deploy.report.data import Data, versions
from levit_deploy.text import counted, rounded_up
from levit_deploy.verification.confidence import CONFIDENCE
from levit_deploy.verification.result import Verification

if TYPE_CHECKING:
    from levit_deploy.verification.accuracy import Accuracy
    from levit_deploy.verification.batches import BatchResult
    from levit_deploy.verification.compare import CaseResult

CASE_COLUMNS = ("images", "RMSE", "allowed", "max error", "allowed")


def verification_data(verification: Verification, checkpoint: Checkpoint | None = None) -> Data:
    """Every figure of a proof, with its budget, checkpoint and versions."""
    figures = dataclasses.asdict(verification)
    return {
        "passed": verification.passed,
        "verdict": verification.verdict,
        **figures.pop("interface"),
        **figures,
        "heads": None if checkpoint is None else 1 + checkpoint.config.distillation,
        "failures": list(verification.failures),
        "checkpoint": checkpoint and {"path": str(checkpoint.path), "sha256": checkpoint.sha256},
        "reading": checkpoint and reading(checkpoint),
        "versions": versions(),
        "accuracy": verification.accuracy and _accuracy_data(verification.accuracy),
        "unrounded": verification.unrounded and verification_data(verification.unrounded),
        "cases": [_judged(case) for case in verification.cases],
        "batches": [_judged(batch) for batch in verification.batches],
        "blocks": [
            {**dataclasses.asdict(block), "agrees": block.agrees} for block in verification.blocks
        ],
    }


def reading(checkpoint: Checkpoint) -> str:
    """Whether the function read from a checkpoint is known to be its author's, in words."""
    return checkpoint.reading or "not checked against its author's logits (--expect)"


def _judged(result: CaseResult | BatchResult | Accuracy) -> Data:
    return {**dataclasses.asdict(result), "failures": list(result.failures)}


def _accuracy_data(accuracy: Accuracy) -> Data:
    return {**_judged(accuracy), "shown": accuracy.shown, "summary": accuracy.summary}


def print_verified(data: Data, console: Console) -> None:
    """Print the artifact, the output it was held to, and the proof."""
    proof = data["verification"]
    print_line(
        console,
        f"{data['path']}: {kind(proof)}, {proof['precision']}{ends(proof)}"
        + (f", held to the {head}" if (head := head_words(proof)) else ""),
    )
    for tensors in data["passed_over"]:
        print_line(console, f"passed over: {tensors}")
    for assumption in data["assumed"]:
        print_line(console, f"assumed: {assumption}")
    for remark in proof["remarks"]:
        print_line(console, remark)
    print_verification(proof, console)
    print_verdict(proof, console)


def print_verdict(proof: Data, console: Console) -> None:
    """Print the verdict, and whether the reading and the graph were compared with others."""
    if proof["reading"] is not None:
        print_line(console, f"reading: {proof['reading']}")
    if proof["graph"] is not None:
        print_line(console, f"graph: {graph_words(proof)}")
    print_line(console, f"verdict: {proof['verdict']}")


def graph_words(proof: Data) -> str:
    """Whether the file is as exported again."""
    words: str = proof["graph"]["words"]
    return f"not as exported again: {words}" if proof["graph"]["same"] is False else words


def kind(proof: Data) -> str:
    """The format, and which of its runtimes ran it."""
    if proof["format"] in ("onnx", "pt2"):
        return f"{proof['format']} in {proof['runtime']}"
    return str(proof["format"])


def head_words(proof: Data) -> str:
    """The head of the logits, as in 'mean head' and 'only head'; nothing for features."""
    if proof["head"] == "none":
        return ""
    only = (proof["head"], proof["heads"]) == ("mean", 1)
    return "only head" if only else f"{proof['head']} head"


def ends(proof: Data) -> str:
    """The types of input and output, if they are not the usual ones."""
    ends = ", uint8 input" if proof["input"] == "uint8" else ""
    return ends + ("" if proof["output"] == "logits" else f", {proof['output']}")


def print_verification(data: Data, console: Console) -> None:
    """Print every error of a proof beside the error allowed."""
    if data["unrounded"] is not None:
        console.print("the float network, before rounding:")
        print_verification(data["unrounded"], console)
        print_line(
            console,
            "the rounded network; allowed are twice the RMSE and four times the largest error of "
            "the rounding itself:",
        )
    if data["output"] != "logits":
        console.print(f"errors are of the {COMPARED[data['output']]}:")
    console.print(_errors(data))
    if data["precision"] not in ROUNDED:
        print_line(console, f"blocks: {blocks_in_words(data['blocks'])}")
    if data["accuracy"] is not None:
        _print_accuracy(data["accuracy"], data["precision"], console)


def blocks_in_words(blocks: Sequence[Data]) -> str:
    """How many blocks were compared, and the largest error, in units of the allowed."""
    if not blocks:
        return "none could be compared, as nothing inside the artifact can be seen"
    agreeing = [block["share"] for block in blocks if block["agrees"]]
    words = f"{len(agreeing)} of {len(blocks)} agree, each on the input that it gets"
    return f"{words}; largest error {max(agreeing):.2f} of that allowed" if agreeing else words


def _errors(data: Data) -> Table:
    """A row for each kind of input, and one for the images together."""
    rows: list[list[str | Text]] = [
        [name, *figures, _verdict(result)] for name, figures, result in case_rows(data)
    ]
    return new_table("inputs", *case_columns(data), "verdict", rows=rows)


def case_columns(data: Data) -> tuple[str, ...]:
    """The columns of ``case_rows``; features have no top-1."""
    return (*CASE_COLUMNS, "same top-1") if _has_top1(data) else CASE_COLUMNS


def _has_top1(data: Data) -> bool:
    return all(case["decided"] is not None for case in data["cases"])


def case_rows(data: Data) -> Iterator[tuple[str, tuple[str, ...], Data]]:
    """Each kind of input and the images together: the name, ``case_columns``, and the result."""
    top1 = _has_top1(data)
    for case in data["cases"]:
        decided, budget = case["decided"], case["budget"]
        errors = (case["rmse"], budget["rmse"], case["max_error"], budget["max_error"])
        figures = [str(case["images"]), *(f"{error:.1e}" for error in errors)]
        if top1:
            agreeing = f"{decided - case['disagreements']}/{decided}" if decided else "none decided"
            figures.append(agreeing)
        yield case["name"], tuple(figures), case
    worst = max(data["batches"], key=lambda batch: batch["difference"] / batch["allowed"])
    images = str(sum(batch["size"] for batch in data["batches"]))
    largest = f"{worst['difference']:.1e}", f"{worst['allowed']:.1e}"
    yield "together", (images, "", "", *largest, *([""] if top1 else [])), worst


def accuracy_rows(data: Data, precision: str) -> Iterator[tuple[str, str]]:
    """The figures of a rounded network on pictures, each with its name."""
    yield "the same top-1", f"{data['agreement']:.2f} %"
    if data["float_top1"] is not None:
        yield "top-1 in float32", f"{data['float_top1']:.2f} %"
        yield f"top-1 in {precision}", f"{data['int8_top1']:.2f} %"
        yield "changed for the better", counted(data["changed_for_better"], "picture")
        yield "changed for the worse", counted(data["changed_for_worse"], "picture")
    yield "lost", f"{max(data['drop'], 0):.2f} points, {data['allowed']:g} allowed"
    limit = rounded_up(data["largest_drop"])
    yield "lost at most", f"{limit} points, with {100 * CONFIDENCE:g} % confidence"


def _print_accuracy(data: Data, precision: str, console: Console) -> None:
    *figures, last = accuracy_rows(data, precision)
    rows: list[list[str | Text]] = [[*row, ""] for row in figures]
    rows.append([*last, _verdict(data)])
    on = f"on {counted(data['pictures'], 'picture')}"
    console.print(new_table(f"{precision} beside float32", on, "verdict", rows=rows))
    if data["float_top1"] is not None and (doubt := doubtful(data["float_top1"])):
        print_line(console, f"in float32 {doubt}")


def _verdict(result: Data) -> Text:
    if not (result["failures"] or result.get("shown", True)):
        return Text("too few pictures", style="yellow")
    return Text("FAILED", style="red") if result["failures"] else Text("proven", style="green")
