"""Where the weights are, or how to make them, if a folder or a file is of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from levit_deploy.text import listed

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order the hub libraries prefer
INDEX = ".index.json"  # of weights in shards
INDEXES = tuple(name + INDEX for name in WEIGHTS)
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar")
MAX_ENTRIES = 10_000
_MARKS = (*WEIGHTS, *INDEXES, "zero_to_fp32.py", ".metadata", "adapter_config.json")

MERGE = (
    "Merge it into its base first: PeftModel.from_pretrained(base, adapter).merge_and_unload()"
    ".save_pretrained(folder)."
)
PADDLE = (
    "Expected weights of PyTorch. PaddleClas gives them the official names: load them by "
    "paddle.load, transpose the weights of linear layers, rename _mean to running_mean and "
    "_variance to running_var, and save tensors of torch by torch.save."
)


def advice_for_folder(folder: Path) -> str:
    """Say what a folder without weights of its own holds, and which file or folder to give.

    Raises OSError if the folder cannot be listed.
    """
    entries = list(islice(folder.iterdir(), MAX_ENTRIES))
    names = {entry.name for entry in entries}
    if any(name.startswith(("adapter_config.", "adapter_model.")) for name in names):
        return f"{folder} holds an adapter such as LoRA, and not the model. {MERGE}"
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        return (
            f"{folder} is a distributed checkpoint of torch. Make one file of it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth (in "
            "Python, dcp_to_torch_save). Give that file."
        )
    if "zero_to_fp32.py" in names or any(_is_of_deepspeed(entry) for entry in entries):
        script = folder / "zero_to_fp32.py"
        command = script if script.name in names else "-m deepspeed.utils.zero_to_fp32"
        return (
            f"{folder} is a checkpoint of DeepSpeed. Make one of plain weights: python {command} "
            f"{folder} weights. Give what it writes."
        )
    if any(name.endswith(".pdparams") for name in names):
        return f"{folder} holds weights of PaddlePaddle. {PADDLE}"
    if below := sorted(_weights_below(entries)):
        which = "these" if len(below) > 1 else "this"
        return (
            f"{folder} has no {' or '.join(WEIGHTS)} of its own, but {which} below it: "
            f"{listed(below, 8)}. "
            f"Give {'one of them' if len(below) > 1 else str(folder / below[0])}."
        )
    return (
        f"{folder} is a folder with neither {' nor '.join(WEIGHTS)} in it. Expected a folder that "
        "timm or transformers saved, or a checkpoint file such as a .pth. Give the file."
    )


def _is_of_deepspeed(entry: Path) -> bool:
    is_step = entry.name.startswith("global_step") and entry.is_dir()
    return is_step or entry.name.endswith("_model_states.pt")


def _weights_below(entries: list[Path]) -> list[str]:
    """The checkpoint files in a folder and its subfolders, and subfolders that are checkpoints."""
    below: list[str] = []
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            inside = list(islice(entry.iterdir(), MAX_ENTRIES))
            if any((entry / name).is_file() for name in _MARKS):
                below.append(f"{entry.name}/")
            else:
                below += [f"{entry.name}/{file.name}" for file in inside if _is_weights(file)]
        elif _is_weights(entry):
            below.append(entry.name)
    return below


def _is_weights(path: Path) -> bool:
    beside = ("optimizer.", "scheduler.", "rng_state", "training_args.", "scaler.")  # a Trainer's
    return path.suffix in SUFFIXES and not path.name.startswith(beside) and path.is_file()


def advice_for_file(path: Path) -> str | None:
    """Say what a file is that holds no weights of torch, by its name."""
    if path.suffix in (".pdparams", ".pdopt", ".pdiparams"):
        return f"{path} is a file of PaddlePaddle. {PADDLE}"
    if path.suffix == ".distcp" or path.name == ".metadata":
        return f"{path} is a part of a distributed checkpoint of torch. Give its folder."
    return None


def advice_for_adapter(contents: Mapping[str, Any], path: Path) -> str | None:
    """Say what to do with an adapter such as LoRA, whose weights are not those of the model."""
    for part in (contents, *contents.values()):
        for name in part if isinstance(part, Mapping) else ():
            if isinstance(name, str) and ("lora_A" in name or "lora_B" in name):
                return f"{path} holds the adapter {name}, of LoRA. {MERGE}"
    return None
