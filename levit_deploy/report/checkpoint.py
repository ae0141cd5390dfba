"""The data sheet of a checkpoint."""

import dataclasses

from rich.console import Console
from rich.table import Table

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.config import Grid
from levit_deploy.cost import count_macs
from levit_deploy.interface import SINGLE_LABEL
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.report.console import new_table
from levit_deploy.report.data import Data
from levit_deploy.report.proof import reading
from levit_deploy.text import printable

_NORMS = {
    "batchnorm": "BatchNorm",
    "layernorm": "BatchNorm, with LayerNorm before attention",
    "batchnorm-in-attention": "BatchNorm in attention only",
    "none": "none: fused already",
}


def checkpoint_data(checkpoint: Checkpoint) -> Data:
    """Everything ``inspect`` reports."""
    config = checkpoint.config
    return {
        "path": str(checkpoint.path),
        "sha256": checkpoint.sha256,
        "family": checkpoint.family,
        "weights": checkpoint.weights,
        "head": checkpoint.head,
        "variant": config.variant,
        "parameters": sum(p.numel() for p in checkpoint.model.parameters()),
        "macs": count_macs(config),
        "config": dataclasses.asdict(config),
        "resolutions": config.resolutions,
        "preprocessing": dataclasses.asdict(checkpoint.preprocessing),
        "labels": list(checkpoint.labels),
        "problem_type": checkpoint.problem_type,
        "prefix": checkpoint.prefix,
        "passed_over": list(checkpoint.passed_over),
        "stated": list(checkpoint.stated),
        "assumed": list(checkpoint.assumed),
        "proven_if": list(checkpoint.proven_if),
        "reading": reading(checkpoint),
    }


def print_checkpoint(data: Data, console: Console) -> None:
    """Print a checkpoint's data sheet, and a table of its parts."""
    console.print(_sheet(data))
    console.print(_parts(data))


def _sheet(data: Data) -> Table:
    """Everything but the architecture, a line each."""
    config = data["config"]
    height, width = config["image_size"]
    heads = "2 (class and distillation)" if config["distillation"] else "1"
    if data["head"] == "none":
        heads = "no head: --output-type features or feature-maps"
    elif data["head"] != "mean":
        heads += f" ({data['head']})"
    facts = (
        ("file", data["path"]),
        ("SHA-256", data["sha256"]),
        ("family", data["family"]),
        ("weights", data["weights"]),
        *([("prefix", data["prefix"])] if data["prefix"] else []),
        ("variant", data["variant"]),
        ("input", f"{config['in_channels']} x {height} x {width}"),
        ("classes", str(config["num_classes"] or "none")),
        ("heads", heads),
        *_activations(config),
        ("normalisation", _NORMS[config["norm"]]),
        *_head(config["head_batchnorm"]),
        ("parameters", f"{data['parameters'] / 1e6:.2f} M"),
        ("multiply-accumulates", f"{data['macs'] / 1e6:.1f} M an image"),
        ("preprocessing", _preprocessing(data["preprocessing"])),
        ("labels", _labels(data["labels"])),
        *_problem_type(data["problem_type"]),
        *(("stated", fact) for fact in data["stated"]),
        *(("passed over", tensors) for tensors in data["passed_over"]),
        *(("assumed", assumption) for assumption in data["assumed"]),
        ("reading", data["reading"]),
    )
    sheet = new_table(rows=facts)
    sheet.show_header = False
    return sheet


def _parts(data: Data) -> Table:
    """The architecture: the stem, the stages, and the subsampling between them."""
    config = data["config"]
    parts = new_table("part", "tokens", "width", "blocks", "heads", "key", "value", "MLP")
    stem = " > ".join(map(str, [config["in_channels"], *config["stem_dims"]]))
    parts.add_row("stem", _grid(data["resolutions"][0]), stem, "", "", "", "", "")
    for i, (stage, grid) in enumerate(zip(config["stages"], data["resolutions"], strict=True)):
        sizes = str(stage["dim"]), str(stage["depth"])
        parts.add_row(f"stage {i + 1}", _grid(grid), *sizes, *_attention(stage))
        if i < len(config["downsamples"]):
            sizes = f"{stage['dim']} > {config['stages'][i + 1]['dim']}", "1"
            after = _grid(data["resolutions"][i + 1])
            parts.add_row("subsampling", after, *sizes, *_attention(config["downsamples"][i]))
    return parts


def _preprocessing(data: Data) -> str:
    """The preprocessing in words, and whether it is assumed."""
    if data["unsupported"]:
        return f"unsupported: {data['unsupported']}"
    given = Preprocessing(**data)
    return f"{given}, assumed" if given.assumed else str(given)


def _problem_type(problem_type: str) -> list[tuple[str, str]]:
    """The meaning of the logits, if it is unusual."""
    return [] if problem_type == SINGLE_LABEL else [("problem type", problem_type)]


def _head(batchnorm: bool | None) -> list[tuple[str, str]]:
    """Whether heads have a BatchNorm, if that is unusual."""
    if batchnorm is None:
        return []
    return [("normalisation, head", "BatchNorm" if batchnorm else "none")]


def _labels(labels: list[str]) -> str:
    """The number of class names, and the first of them."""
    if not labels:
        return "none"
    first = ", ".join(map(printable, labels[:3]))
    return f"{len(labels)}: {first}{', ...' if len(labels) > 3 else ''}"


def _activations(config: Data) -> list[tuple[str, str]]:
    """The activation, and the parts with another one."""
    rows = [("activation", config["activation"])]
    for part in ("stem", "attention"):
        if (own := config[f"{part}_activation"]) not in (None, config["activation"]):
            rows.append((f"activation, {part}", own))
    return rows


def _attention(part: Data) -> list[str]:
    sizes = ("num_heads", "key_dim", "value_dim", "mlp_dim")
    return [str(part[size] or "none") for size in sizes]


def _grid(sides: Grid) -> str:
    return f"{sides[0]} x {sides[1]}"
