"""Prove that a LiteRT file in int8-dynamic is its float file with weights rounded, no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from levit_deploy.errors import VerificationError
from levit_deploy.targets.litert_file import kinds, read_model
from levit_deploy.targets.litert_graph import NUMPY_TYPES, rounded_weight

HALF_A_STEP = 0.5001  # the scale was itself rounded to float32, and weights are up to 127 of it
A_SCALE = 1e-6  # that a scale may be off, as a part of it


def check_rounding(path: Path, data: bytes, floats: bytes, expected: bytes) -> None:
    """Raise VerificationError if a file is not its float file with weights rounded.

    ``floats`` and ``expected`` are the checkpoint's float file and its rounded one, written again.
    Every operator, with its options, and every tensor must be where it is in ``expected``; names
    may differ. Each rounded weight is the nearest step to the float one, the largest of a channel
    is 127 steps, and any other constant is that of ``floats``.
    """
    model, plain, again = (read_model(path, each) for each in (data, floats, expected))
    try:
        _compare(model, plain, again)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # of the schema's objects
        _refuse("a part is missing, or there is one more")


def _compare(model: Any, plain: Any, again: Any) -> None:
    given, wanted = dict(_facts(model)), dict(_facts(again))
    for what in (*wanted, *given):
        if given.get(what) != wanted.get(what):
            _refuse(f"{what} is another, or in one of them only")
    for tensor, original in zip(
        model.subgraphs[0].tensors, plain.subgraphs[0].tensors, strict=True
    ):
        numbers, unrounded = _numbers(model, tensor), _numbers(plain, original)
        if (numbers is None) != (unrounded is None):
            _refuse(f"{_name(original)} is a constant in one of them only")
        if numbers is None or unrounded is None:
            continue
        if tensor.type == original.type:
            right = numbers.tobytes() == unrounded.tobytes()
        else:
            right = _is_rounded(numbers, tensor.quantization.scale, unrounded)
        if not right:
            _refuse(f"{_name(original)} is not the checkpoint's")


def _is_rounded(
    numbers: npt.NDArray[Any], scales: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> bool:
    """Whether a weight in int8, output channels first, is a float one in steps of ``scales``."""
    _, expected = rounded_weight(weight)
    if scales.shape != expected.shape or not np.allclose(scales, expected, rtol=A_SCALE, atol=0):
        return False
    steps = scales.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    return bool((np.abs(numbers - weight / steps) <= HALF_A_STEP).all())


def _facts(model: Any) -> Iterator[tuple[str, object]]:
    """Everything about a file but names, metadata and the numbers of its constants."""
    (graph,) = model.subgraphs
    yield "the input", list(graph.inputs)
    yield "the output", list(graph.outputs)
    yield "the tables", (model.version, _plain(model.externalBuffers), len(model.signatureDefs))
    for signature in model.signatureDefs:
        for kind in ("inputs", "outputs"):
            places = [value.tensorIndex for value in getattr(signature, kind)]
            yield f"the signature's {kind}", places
    for i, (kind, operator) in enumerate(zip(kinds(model), graph.operators, strict=True)):
        code = model.operatorCodes[operator.opcodeIndex]
        settings = {k: v for k, v in vars(operator).items() if k != "opcodeIndex"}
        yield f"operator {i}", (kind, code.version, code.customCode, _plain(settings))
    for i, tensor in enumerate(graph.tensors):
        settings = {k: v for k, v in vars(tensor).items() if k not in ("name", "buffer")}
        quantization = settings.pop("quantization")
        if quantization is not None:  # the scales are compared as numbers
            quantization = {k: v for k, v in vars(quantization).items() if k != "scale"}
        yield f"tensor {i}", (_plain(settings), _plain(quantization))


def _plain(value: Any) -> Any:
    """The schema's objects, and numpy's, as those of Python, which compare by their content."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return _plain(vars(value)) if hasattr(value, "__dict__") else value


def _numbers(model: Any, tensor: Any) -> npt.NDArray[Any] | None:
    """The numbers of a constant; None for a tensor that is computed."""
    content = model.buffers[tensor.buffer].data
    if content is None or not len(content):
        return None
    numbers: npt.NDArray[Any] = np.frombuffer(content.tobytes(), NUMPY_TYPES[tensor.type])
    return numbers.reshape(tensor.shape)


def _name(tensor: schema.TensorT) -> str:
    return str(tensor.name.decode())


def _refuse(difference: str) -> NoReturn:
    raise VerificationError(
        "The artifact is not the checkpoint's float network with its weights rounded: "
        f"{difference}. It was made from another checkpoint, by another version, or changed since. "
        "Export it again."
    )
