"""What a command has to say: as a table for a person, as plain data for a machine."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from levit_deploy import __version__
from levit_deploy.checkpoint import Checkpoint
from levit_deploy.config import Grid
from levit_deploy.cost import count_macs
from levit_deploy.ending import printable
from levit_deploy.pipeline import Published
from levit_deploy.prediction import Answer
from levit_deploy.prediction.output import in_words, utf8_path
from levit_deploy.preprocessing import Preprocessing
from levit_deploy.verification import Verification

if TYPE_CHECKING:
    from levit_deploy.bench import Benchmark
    from levit_deploy.evaluation import Evaluation
    from levit_deploy.quantization import Accuracy, Quantization

Data = dict[str, Any]
DOUBTFUL_TOP1 = 50.0  # percent; with the classes in another order, or pictures of another kind


def checkpoint_data(checkpoint: Checkpoint) -> Data:
    """Everything ``inspect`` knows of a checkpoint."""
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
        "assumed": list(checkpoint.assumed),
    }


def published_data(published: Published, checkpoint: Checkpoint | None = None) -> Data:
    """Everything known of a file that was written and proven."""
    return {
        "path": str(published.path),
        "layout": published.layout,
        "size_bytes": published.size_bytes,
        "facts": published.facts,
        "assumed": list(published.assumed),
        "quantization": _quantization_data(published.quantization),
        "verification": verification_data(published.verification, checkpoint),
    }


def _quantization_data(how: Quantization | None) -> Data | None:
    if how is None:
        return None
    data = dataclasses.asdict(how)
    if how.speed is not None:
        data["speed"]["verdict"] = how.speed.verdict
    return data


def versions() -> dict[str, str]:
    """What computed the figures: this tool, Python, and the libraries that figures depend on."""
    found = {"levit-deploy": __version__, "python": platform.python_version()}
    for name in ("torch", "onnx", "onnx-ir", "onnxruntime", "onnxsim", "numpy"):
        found[name] = importlib.metadata.version(name)
    return found | {"machine": platform.platform()}


def verification_data(verification: Verification, checkpoint: Checkpoint | None = None) -> Data:
    """Every figure of a proof, what it was held to, and what computed it."""
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


def print_checkpoint(data: Data, console: Console) -> None:
    """Print a checkpoint's data sheet."""
    config = data["config"]
    height, width = config["image_size"]
    heads = "2 (class and distillation)" if config["distillation"] else "1"
    if data["head"] != "mean":
        heads += f" ({data['head']})"
    sheet = _table()
    sheet.show_header = False
    for name, value in (
        ("file", data["path"]),
        ("SHA-256", data["sha256"]),
        ("family", data["family"]),
        ("weights", data["weights"]),
        ("variant", data["variant"]),
        ("input", f"{config['in_channels']} x {height} x {width}"),
        ("classes", str(config["num_classes"])),
        ("heads", heads),
        *_activations(config),
        ("normalisation", _NORMS[config["norm"]]),
        ("parameters", f"{data['parameters'] / 1e6:.2f} M"),
        ("multiply-accumulates", f"{data['macs'] / 1e6:.1f} M an image"),
        ("pictures", _preprocessing(data["preprocessing"])),
        ("labels", _labels(data["labels"])),
        *(("assumed", assumption) for assumption in data["assumed"]),
    ):
        sheet.add_row(name, value)
    console.print(sheet)

    parts = _table("part", "tokens", "width", "blocks", "heads", "key", "value", "MLP")
    stem = " > ".join(map(str, [config["in_channels"], *config["stem_dims"]]))
    parts.add_row("stem", _grid(data["resolutions"][0]), stem, "", "", "", "", "")
    for i, (stage, grid) in enumerate(zip(config["stages"], data["resolutions"], strict=True)):
        parts.add_row(
            f"stage {i + 1}",
            _grid(grid),
            str(stage["dim"]),
            str(stage["depth"]),
            *_attention(stage),
        )
        if i < len(config["downsamples"]):
            widths = f"{stage['dim']} > {config['stages'][i + 1]['dim']}"
            down = config["downsamples"][i]
            parts.add_row(
                "subsampling", _grid(data["resolutions"][i + 1]), widths, "1", *_attention(down)
            )
    console.print(parts)


def _preprocessing(data: Data) -> str:
    """How pictures are prepared, and whether the checkpoint says so."""
    if data["unsupported"]:
        return f"not read: {data['unsupported']}"
    given = Preprocessing(**data)
    return f"{given}, assumed" if given.assumed else str(given)


def _labels(labels: list[str]) -> str:
    """How many classes have a name, and the first of them."""
    if not labels:
        return "none"
    return f"{len(labels)}: {', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''}"


_NORMS = {
    "batchnorm": "BatchNorm",
    "layernorm": "BatchNorm, and LayerNorm before attention",
    "batchnorm-in-attention": "BatchNorm in attention only",
    "none": "none: fused already",
}


def _activations(config: Data) -> list[tuple[str, str]]:
    """The activation, and those that parts have of their own."""
    rows = [("activation", config["activation"])]
    for part in ("stem", "attention"):
        if own := config[f"{part}_activation"]:
            rows.append((f"activation, {part}", own))
    return rows


def print_published(data: Data, console: Console) -> None:
    """Print what was written, what was assumed, and the proof."""
    facts = "".join(f", {name} {value}" for name, value in data["facts"].items())
    proof = data["verification"]
    console.print(
        f"{data['path']}: {proof['format']}, {proof['precision']}, {data['layout']} layout, "
        f"{proof['head']} head{_ends(proof)}{facts}, {data['size_bytes'] / 1e6:.2f} MB",
        soft_wrap=True,
    )
    for assumption in data["assumed"]:
        console.print(f"assumed: {assumption}", soft_wrap=True)
    if data["quantization"] is not None:
        print_quantization(data["quantization"], console)
    print_verification(proof, console)


def print_quantization(data: Data, console: Console) -> None:
    """Print how a network was quantized: methods, what each block costs, what stayed float."""
    errors = ", ".join(f"{name} {error:.2%}" for name, error in data["errors"].items())
    console.print(
        f"calibrated by {data['method']} on {data['calibrated_on']} pictures, for "
        f"{_CPUS[data['cpu']]} (error of the logits: {errors})",
        soft_wrap=True,
    )
    costs = sorted(data["costs"].items(), key=lambda item: -item[1])
    console.print(
        "cost of each block alone: " + ", ".join(f"{name} {cost:.2%}" for name, cost in costs),
        soft_wrap=True,
    )
    console.print(f"left in float: {', '.join(data['float_blocks']) or 'nothing'}", soft_wrap=True)
    if data["speed"] is not None:
        speed = data["speed"]
        console.print(
            f"speed here: {speed['median']:.2f} x the best float32 file ({speed['verdict']}; "
            f"quartiles {speed['low']:.2f} to {speed['high']:.2f})",
            soft_wrap=True,
        )


_CPUS = {"any": "any processor", "vnni": "processors with VNNI"}


def print_verified(data: Data, console: Console) -> None:
    """Print what an artifact was held to, and the proof."""
    proof = data["verification"]
    console.print(
        f"{data['path']}: {proof['format']}, {proof['precision']}{_ends(proof)}, held to the "
        f"{proof['head']} head",
        soft_wrap=True,
    )
    print_verification(proof, console)


def _ends(proof: Data) -> str:
    """What an artifact takes and gives, where that is not the usual."""
    ends = ", uint8 input" if proof["input"] == "uint8" else ""
    return ends + (", probabilities" if proof["output"] == "probabilities" else "")


def print_verification(data: Data, console: Console) -> None:
    """Print the figures of a proof, beside what was allowed."""
    if data["unrounded"] is not None:
        console.print("the float network, before it is rounded:")
        print_verification(data["unrounded"], console)
        console.print("the rounded one; allowed is twice what its rounding itself is off by:")
    table = _table(
        "inputs", "images", "RMSE", "allowed", "max error", "allowed", "same top-1", "verdict"
    )
    for case in data["cases"]:
        agreeing = case["decided"] - case["disagreements"]
        table.add_row(
            case["name"],
            str(case["images"]),
            f"{case['rmse']:.1e}",
            f"{case['budget']['rmse']:.1e}",
            f"{case['max_error']:.1e}",
            f"{case['budget']['max_error']:.1e}",
            f"{agreeing}/{case['decided']}",
            _verdict(case),
        )
    for batch in _worst(data["batches"]):
        table.add_row(
            "together",
            str(sum(batch["size"] for batch in data["batches"])),
            "",
            "",
            f"{batch['difference']:.1e}",
            f"{batch['allowed']:.1e}",
            "",
            _verdict(batch),
        )
    console.print(table)
    if data["accuracy"] is not None:
        console.print(_accuracy(data["accuracy"]), soft_wrap=True)


def _accuracy(data: Data) -> Text:
    """How an int8 network answers pictures, in one line."""
    line = f"on {data['pictures']} pictures: the same top-1 on {data['agreement']:.2f} %"
    if data["float_top1"] is not None:
        line += f", top-1 {data['float_top1']:.2f} % in float32, {data['int8_top1']:.2f} % in int8"
    line += f"; lost {max(data['drop'], 0):.2f} points of {data['allowed']:g} allowed: "
    text = Text(line) + _verdict(data)
    if data["float_top1"] is not None and data["float_top1"] < DOUBTFUL_TOP1:
        text.append(
            f"\nin float32 only {data['float_top1']:.2f} % are right, so this says little: are "
            "the folders those of the classes, in their order, and the pictures prepared as in "
            "training (--preprocessing)?"
        )
    return text


def _worst(batches: list[Data]) -> list[Data]:
    """The batch nearest to what is allowed, or beyond it."""
    return sorted(batches, key=lambda batch: batch["difference"] / batch["allowed"])[-1:]


def _verdict(result: Data) -> Text:
    return Text("FAILED", style="red") if result["failures"] else Text("proven", style="green")


def print_comparison(data: Data, console: Console) -> None:
    """Print the demo's closing comparison; the last column is against the original."""
    table = _table("network", "top-1", "max error", "allowed", "size", "one image", "speed")
    rows = data["comparison"]
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['top1']:.2f} %",
            "" if row["max_error"] is None else f"{row['max_error']:.1e}",
            "" if row["allowed"] is None else f"{row['allowed']:.1e}",
            f"{row['size_bytes'] / 1e6:.2f} MB",
            f"{row['milliseconds']:.2f} ms",
            f"{rows[0]['milliseconds'] / row['milliseconds']:.1f} x",
        )
    console.print(table)


def benchmark_data(benchmark: Benchmark) -> Data:
    """Every figure of a benchmark, the conditions, and what computed it."""
    rows = [{**dataclasses.asdict(row), "verdict": row.ratio.verdict} for row in benchmark.rows]
    return {**dataclasses.asdict(benchmark), "rows": rows, "versions": versions()}


def print_benchmark(data: Data, console: Console) -> None:
    """Print a table for each batch size; speeds are against the plain export."""
    threads = "one thread" if data["threads"] == 1 else f"{data['threads']} threads"
    console.print(
        f"{data['network']}, {threads}, {data['rounds']} rounds in turns, {data['processor']}",
        soft_wrap=True,
    )
    for size, gflops in data["gflops"].items():
        console.print(f"batch {size}; matrix products alone run at {gflops:.3g} GFLOP/s")
        console.print(_benchmark_table([r for r in data["rows"] if r["batch_size"] == size]))


def _benchmark_table(rows: list[Data]) -> Table:
    """Every form under the runtime that runs it, in 100 columns."""
    table = _table()
    table.collapse_padding = True
    table.add_column("form", no_wrap=True)
    for column in (
        "ms",
        "p90 ms",
        "images/s",
        "speed, quartiles",
        "",
        "matmul",
        "MB",
        "load ms",
    ):
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
        f"{row['median_s'] * 1000:.2f}",
        f"{row['p90_s'] * 1000:.2f}",
        f"{row['images_per_s']:.1f}",
        f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})",
        row["verdict"],
        f"{row['of_matmul']:.0%}",
        "" if size is None else f"{size / 1e6:.1f}",
        "" if load is None else f"{load * 1000:.0f}",
    ]


def evaluation_data(evaluation: Evaluation, checkpoint: Checkpoint | None = None) -> Data:
    """Everything an evaluation found, and what computed it."""
    data = dataclasses.asdict(evaluation)
    data["path"] = str(evaluation.path)
    for disagreement in data["disagreements"]:
        disagreement["path"] = utf8_path(disagreement["path"])
    data["checkpoint"] = checkpoint and {"path": str(checkpoint.path), "sha256": checkpoint.sha256}
    return data | {"versions": versions()}


def print_evaluation(data: Data, console: Console) -> None:
    """Print how often an artifact is right, and each picture where its original is not with it."""
    skipped = f", {data['skipped']} skipped" if data["skipped"] else ""
    console.print(
        f"{data['path']}: {data['format']}, {data['precision']}, {data['pictures']} pictures in "
        f"{len(data['classes'])} class folders{skipped}",
        soft_wrap=True,
    )
    table = _table("network", "top-1", "top-5")
    for name, prefix in (("artifact", ""), ("original", "original_")):
        if data[f"{prefix}top1"] is not None:
            table.add_row(name, f"{data[f'{prefix}top1']:.2f} %", f"{data[f'{prefix}top5']:.2f} %")
    console.print(table)
    if data["checkpoint"] is None:
        return
    console.print(f"another first answer than the original: {len(data['disagreements'])} pictures")
    for found in data["disagreements"]:
        answers = (f"{name} {in_words(Answer(**found[name]))}" for name in ("artifact", "original"))
        line = f"{found['path']}: {', '.join(answers)}"
        console.print(printable(line), soft_wrap=True)


def console() -> Console:
    """Standard output, wide enough for every table where it is no terminal.

    File names are printed as they are: nothing in square brackets is markup.
    """
    width = None if sys.stdout.isatty() else 100
    return Console(width=width, markup=False, emoji=False, highlight=False)


def to_json(data: Data) -> str:
    """Strict JSON: what is not finite becomes null."""
    return json.dumps(_finite(data), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _attention(part: Data) -> tuple[str, str, str, str]:
    return (
        str(part["num_heads"]),
        str(part["key_dim"]),
        str(part["value_dim"]),
        str(part["mlp_dim"] or "none"),
    )


def _grid(sides: Grid) -> str:
    return f"{sides[0]} x {sides[1]}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
