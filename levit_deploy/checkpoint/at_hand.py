"""Take a network that Python has at hand, a module or a dict, for the contents of a file."""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from levit_deploy.checkpoint.files import CheckpointFile
from levit_deploy.checkpoint.pickles.modules import ModuleFacts, modules_of
from levit_deploy.errors import UsageError

Source = str | Path | nn.Module | Mapping[str, Any]  # of a checkpoint

MAX_DEPTH = 8  # of dicts and lists in each other


def at_hand(source: nn.Module | Mapping[str, Any]) -> tuple[CheckpointFile, Mapping[str, Any]]:
    """Return a module, a state dict, or a dict with one, as a file's contents, and its config.

    Nothing is changed, and the module stays in its mode. There is no file: the path says 'the' and
    the type, and the SHA-256 is of every tensor, in the order of their names: a line with name,
    type and shape, then the bytes. Raises UsageError for anything else.
    """
    if not isinstance(source, nn.Module | Mapping):
        raise UsageError(
            f"An object of type {type(source).__name__} is not a checkpoint. Expected a path, a "
            "torch module, a dict of tensors, or the result of load."
        )
    networks: list[nn.Module] = []
    contents = _plain(source, networks, 0)
    file = CheckpointFile(
        path=Path(f"the {type(source).__name__}"),
        sha256=_sha256(contents),
        contents=contents,
        modules=_agreed(networks),
    )
    return file, _config(networks)


def _plain(value: Any, networks: list[nn.Module], depth: int) -> Any:
    """A state dict for each module, which joins ``networks``, and tensors without a history."""
    if isinstance(value, nn.Module):
        networks.append(value)
        value = value.state_dict()
    elif isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping) and depth < MAX_DEPTH:
        return {key: _plain(part, networks, depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple) and depth < MAX_DEPTH:
        return [_plain(part, networks, depth + 1) for part in value]
    if isinstance(value, Tensor):
        return value.detach() if value.is_meta else value.detach().cpu()
    return value


def _agreed(networks: list[nn.Module]) -> dict[str, ModuleFacts]:
    """The facts of all modules, but for those that two networks contradict each other in."""
    facts: dict[str, ModuleFacts | None] = {}
    for network in networks:
        for path, module in modules_of(network).items():
            facts[path] = module if facts.get(path, module) == module else None
    return {path: module for path, module in facts.items() if module is not None}


def _config(networks: list[nn.Module]) -> dict[str, Any]:
    """The config that a module of transformers, or of timm, has with it, as config.json has it."""
    modules = [module for network in networks for module in network.modules()]
    for module in modules:
        config: Any = getattr(module, "config", None)
        if hasattr(config, "to_json_string"):
            # as save_pretrained does: its own config may name the class that it was loaded from
            saved: dict[str, Any] = json.loads(config.to_json_string())
            return saved | {"architectures": [type(module).__name__]}
    for module in modules:
        if isinstance(pretrained := getattr(module, "pretrained_cfg", None), Mapping):
            return {"pretrained_cfg": json.loads(json.dumps(dict(pretrained), default=str))}
    return {}


def _sha256(contents: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(contents, ""), key=lambda named: named[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(contents: Mapping[Any, Any] | list[Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its dotted name, but for kinds that are refused later."""
    for key, value in contents.items() if isinstance(contents, Mapping) else enumerate(contents):
        if isinstance(value, Mapping | list):
            yield from _tensors(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor) and _has_bytes(value):
            yield f"{prefix}{key}", value


def _has_bytes(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)
