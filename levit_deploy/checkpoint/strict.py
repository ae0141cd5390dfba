"""Load a state dict with every name and shape accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from levit_deploy.errors import CheckpointError
from levit_deploy.model import LeViT

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_strictly(model: LeViT, state: Mapping[str, Tensor]) -> None:
    """Load ``state`` into ``model``, in the model's dtype.

    Only two kinds of tensor may be missing, as they say nothing a trained network computes with:
    ``num_batches_tracked``, and the offset indices, which follow from the image size. Indices that
    are there must agree with the ones computed, which are the ones used: a file cast to bfloat16
    as a whole has them rounded. Raises CheckpointError for anything missing, surplus, of
    another shape, quantized, sparse, or not finite.
    """
    expected = model.state_dict()
    loaded = dict(state)
    for key, tensor in expected.items():
        if key.endswith((".num_batches_tracked", ".attention_bias_idxs")):
            loaded.setdefault(key, tensor)

    problems = []
    if missing := expected.keys() - loaded.keys():
        problems.append(f"missing {_listed(missing)}")
    if surplus := loaded.keys() - expected.keys():
        problems.append(f"surplus {_listed(surplus)}")
    if wrong := [
        f"{key} ({_sides(loaded[key])} instead of {_sides(expected[key])})"
        for key in expected.keys() & loaded.keys()
        if loaded[key].shape != expected[key].shape
    ]:
        problems.append(f"wrong shapes: {_listed(wrong)}")
    if problems:
        raise CheckpointError(
            f"The tensors do not add up to one LeViT: {'; '.join(problems)}. Expected exactly the "
            "parameters of the architecture their shapes describe. Save the whole "
            "model.state_dict(), unchanged."
        )
    for key, tensor in loaded.items():
        wanted = expected[key].dtype
        if wanted.is_floating_point and tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"{key} is stored as {tensor.dtype}. Expected floating-point numbers. A quantized "
                "checkpoint has lost what this tool needs; give the one it was made from."
            )
        if not torch.isfinite(tensor.to(wanted)).all():
            raise CheckpointError(
                f"{key} holds NaN or infinity in float32, so the network computes nothing of use. "
                "Check the training run that wrote the file."
            )
        computed = expected[key]
        if key.endswith(".attention_bias_idxs") and not torch.equal(
            tensor, computed.to(tensor.dtype)
        ):
            raise CheckpointError(
                f"{key} does not hold the offsets of its token grid. Expected |dy| * width + |dx| "
                "for every query and key. The file orders its attention biases in a way this tool "
                "does not know."
            )
    indices = {key: tensor for key, tensor in expected.items() if key.endswith("_bias_idxs")}
    model.load_state_dict({**loaded, **indices})


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return ", ".join(ordered[:4]) + more


def _sides(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
