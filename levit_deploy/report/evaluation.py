"""The report of an evaluation: accuracy, and disagreements with the original."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rich.console import Console

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.prediction.predict import Answer
from levit_deploy.report.console import new_table, print_line
from levit_deploy.report.data import Data, versions
from levit_deploy.report.predictions import in_words
from levit_deploy.text import as_utf8, counted, printable

if TYPE_CHECKING:
    from levit_deploy.evaluation import Evaluation


def evaluation_data(evaluation: Evaluation, checkpoint: Checkpoint | None = None) -> Data:
    """Every figure of an evaluation, with versions."""
    data = dataclasses.asdict(evaluation)
    compared = evaluation.original_top1 is not None
    data["path"] = as_utf8(evaluation.path)
    data["changed_for_better"] = evaluation.changed_for_better if compared else None
    data["changed_for_worse"] = evaluation.changed_for_worse if compared else None
    for disagreement in data["disagreements"]:
        disagreement["path"] = as_utf8(disagreement["path"])
    data["checkpoint"] = checkpoint and {"path": str(checkpoint.path), "sha256": checkpoint.sha256}
    return data | {"versions": versions()}


def print_evaluation(data: Data, console: Console) -> None:
    """Print the accuracy, and each picture that the original classifies differently."""
    skipped = f", {data['skipped']} skipped" if data["skipped"] else ""
    print_line(
        console,
        f"{data['path']}: {data['format']}, {data['precision']}, "
        f"{counted(data['pictures'], 'picture')} in "
        f"{counted(len(data['classes']), 'class folder')}{skipped}",
    )
    table = new_table("network", "top-1", "top-5")
    for name, prefix in (("artifact", ""), ("original", "original_")):
        if data[f"{prefix}top1"] is not None:
            table.add_row(name, f"{data[f'{prefix}top1']:.2f} %", f"{data[f'{prefix}top5']:.2f} %")
    console.print(table)
    for doubt in data["doubts"]:
        print_line(console, f"doubtful: {printable(doubt)}")
    if data["checkpoint"] is None:
        return
    pictures = data["disagreements"]
    print_line(
        console,
        f"classified differently from the original: {counted(len(pictures), 'picture')}, "
        f"{data['changed_for_better']} for the better, {data['changed_for_worse']} for the worse",
    )
    for picture in pictures:
        ours, original = (in_words(Answer(**picture[by])) for by in ("artifact", "original"))
        print_line(console, printable(f"{picture['path']}: artifact {ours}, original {original}"))
