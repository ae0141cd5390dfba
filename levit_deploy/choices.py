"""Everything that you can choose by name: the literals of Python's types and of the options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar, get_args

from levit_deploy.errors import UsageError

T = TypeVar("T", bound=str)

Activation = Literal["hardswish", "silu", "gelu", "relu"]
BatchSize = int | Literal["dynamic"]
Cpu = Literal["any", "vnni"]
Engine = Literal["local", "ray"]
Head = Literal["mean", "class", "distill"]
Input = Literal["float32", "uint8"]
Layout = Literal["tokens", "spatial"]
LayoutChoice = Literal["auto", "tokens", "spatial"]
Output = Literal["logits", "probabilities", "features", "feature-maps"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "w8a16"]
Runtime = Literal["onnxruntime", "openvino"]  # of ONNX files

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
CPUS: tuple[Cpu, ...] = get_args(Cpu)
HEADS: tuple[Head, ...] = get_args(Head)
INPUTS: tuple[Input, ...] = get_args(Input)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
OUTPUTS: tuple[Output, ...] = get_args(Output)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

# judged by pictures, and all but int8-dynamic calibrated on them, too
ROUNDED: tuple[Precision, ...] = ("int8", "int8-dynamic", "w8a16")

# products of rounded numbers are summed as integers and returned as float32
DTYPES: dict[Precision, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "float32",
    "int8-dynamic": "float32",
    "w8a16": "float32",
}
EPS: dict[Precision, float] = {  # one ulp at 1
    "fp32": 2.0**-23,
    "fp16": 2.0**-10,
    "bf16": 2.0**-7,
    "int8": 2.0**-23,
    "int8-dynamic": 2.0**-23,
    "w8a16": 2.0**-23,
}


def known(value: object, choices: Iterable[T]) -> T | None:
    """Return the choice of this name, typed as one, or None."""
    return next((choice for choice in choices if choice == value), None)


def require_one_of(option: str, value: str, choices: Iterable[T]) -> T:
    """Return the choice of this name; raise UsageError if there is none."""
    choices = tuple(choices)
    found = known(value, choices)
    if found is None:
        raise UsageError(f"{option} {value!r} is not one of {', '.join(choices)}.")
    return found
