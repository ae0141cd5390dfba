"""Load a state dict with every name and shape accounted for."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from levit_deploy.checkpoint.image_size import same_indices
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import CheckpointError, first_line
from levit_deploy.model import AttentionBias, LeViT, offset_indices
from levit_deploy.text import listed

COUNTS, INDICES = ".num_batches_tracked", ".attention_bias_idxs"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_strictly(config: LeViTConfig, state: Mapping[str, Tensor]) -> LeViT:
    """Build the model of an architecture from ``state``, in float32 and evaluation mode.

    Only two kinds of tensor may be missing: ``num_batches_tracked``, which no trained network
    uses, and the offset indices, which follow from the image size. Stored indices must agree with
    the computed ones, up to rounding. The model gets the computed ones, as a cast to bfloat16
    rounds them. No memory is allocated for weights before ``state`` is known to have every shape.

    Raises CheckpointError for any tensor that is missing, surplus, of another shape or type, or
    not finite.
    """
    model = empty_model(config)
    expected = model.state_dict()
    optional = {key for key in expected if key.endswith((COUNTS, INDICES))}
    refuse_other_names_or_shapes(expected, state, optional)

    loaded = {key: torch.zeros(()) for key in optional if key.endswith(COUNTS)}
    loaded |= {key: tensor for key, tensor in state.items() if not key.endswith(INDICES)}
    loaded = {key: numbers(key, tensor, expected[key].dtype) for key, tensor in loaded.items()}
    # torch would import its compiler to allocate memory for an empty model
    model.load_state_dict(loaded | _indices(model, state), assign=True)
    return model.eval()


def _indices(model: LeViT, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the offset indices. Raises CheckpointError if stored ones differ."""
    indices = {}
    for name, module in model.named_modules():
        if isinstance(module, AttentionBias):
            key = name.removesuffix(".attention_bias") + INDICES
            indices[key] = offset_indices(module.grid, module.stride)
            if key in state and not same_indices(state[key], indices[key]):
                raise CheckpointError(
                    f"{key} does not hold the offsets of its token grid. Expected |dy| * width + "
                    "|dx| for every query and key. No other order of the attention biases is "
                    "supported. Save the state dict again, unchanged."
                )
    return indices


def refuse_other_names_or_shapes(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: Collection[str] = ()
) -> None:
    """Raise CheckpointError, with names, for tensors missing, surplus or of another shape."""
    problems = []
    if missing := expected.keys() - state.keys() - set(optional):
        problems.append(f"missing {listed(sorted(missing))}")
    if surplus := state.keys() - expected.keys():
        problems.append(f"surplus {listed(sorted(surplus))}")
    if wrong := [
        f"{key} ({sides(state[key])} instead of {sides(expected[key])})"
        for key in expected.keys() & state.keys()
        if state[key].shape != expected[key].shape
    ]:
        problems.append(f"wrong shapes: {listed(sorted(wrong))}")
    if problems:
        raise CheckpointError(
            f"The tensors do not make one LeViT: {'; '.join(problems)}. Expected exactly the "
            "parameters of the architecture that their shapes describe. Save the whole "
            "model.state_dict(), unchanged."
        )


def empty_model(config: LeViTConfig) -> LeViT:
    """Build a model with every shape and no numbers, on torch's meta device.

    Raises CheckpointError for sizes that fit no memory.
    """
    try:
        with torch.device("meta"):
            return LeViT(config)
    except RuntimeError as error:
        raise CheckpointError(
            f"The sizes in the file fit no memory: {first_line(error)}. Expected those of a LeViT. "
            "The file is damaged. Copy it again."
        ) from error


def numbers(key: str, tensor: Tensor, wanted: torch.dtype) -> Tensor:
    """Return a copy of a tensor in another type.

    Raises CheckpointError for a tensor of another kind of number, or with NaN or infinity.
    """
    if wanted.is_floating_point and tensor.dtype not in FLOATS:
        raise CheckpointError(
            f"{key} is stored as {tensor.dtype}. Expected floating-point numbers. A quantized "
            "checkpoint has lost its original weights. Give the checkpoint it was made from."
        )
    copy = tensor.detach().to(wanted, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(copy).all():
        raise CheckpointError(
            f"{key} holds NaN or infinity in float32. Expected finite numbers. Check the training "
            "run that wrote the file."
        )
    return copy


def sides(tensor: Tensor) -> str:
    """The shape in words, as in '3x4'."""
    return "x".join(map(str, tensor.shape)) or "a scalar"
