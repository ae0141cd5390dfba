"""The input and the outputs of an ONNX graph: found by name or by place, and given other names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.errors import ArtifactError, UsageError

if TYPE_CHECKING:  # ``--help`` reads the targets
    import onnx

    from levit_deploy.interface import Interface

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]*")
_REMEDY = {
    "input": "Make constants of the others, and export it again.",
    "output": "Export it in evaluation mode, in which a network with two heads has one output, or "
    "without the others.",
}


def taken(path: Path, kind: str, present: Sequence[str], expected: Sequence[str]) -> list[str]:
    """The names of the inputs or outputs to use: those expected, or as many by place.

    ``kind`` is 'input' or 'output'. Outputs that nobody asks for may be there, inputs may not.
    Raises ArtifactError if it cannot be told which are meant.
    """
    if len(present) == len(expected):
        return list(expected if set(expected) == set(present) else present)
    if kind == "output" and set(expected) <= set(present):
        return list(expected)
    count = "one" if len(expected) == 1 else str(len(expected))
    raise ArtifactError(
        f"{path} has the {kind}s {', '.join(present)}. Expected {count} of any name, or "
        f"{', '.join(expected)}{' among them' if kind == 'output' else ''}. {_REMEDY[kind]}"
    )


def remarks(
    model: onnx.ModelProto, names: Mapping[str, list[str]], expected: Mapping[str, list[str]]
) -> tuple[str, ...]:
    """What a proof of a file that is not ours should say of it, in sentences.

    ``names`` are those taken, by kind.
    """
    said = [
        f"The {kind} was taken by place: {', '.join(names[kind])}."
        for kind in names
        if names[kind] != expected[kind]
    ]
    if count := sum(map(_is_training, model.graph.node)):
        said.append(
            f"It was exported in training mode: {count} BatchNormalization nodes normalise by the "
            "batch at hand."
        )
    return tuple(said)


def _is_training(node: onnx.NodeProto) -> bool:
    """Whether a node computes as in training, by statistics of its input."""
    modes = [attribute.i for attribute in node.attribute if attribute.name == "training_mode"]
    return node.op_type == "BatchNormalization" and modes == [1]


def require_names(names: tuple[str | None, str | None], usual: tuple[str, str]) -> None:
    """Raise UsageError for names of the input and the output that a graph cannot have.

    None stands for the usual name.
    """
    for option, name in zip(("--input-name", "--output-name"), names, strict=True):
        if name is not None and not _NAME.fullmatch(name):
            raise UsageError(
                f"{option} {name!r} is no name for every runtime. Expected a letter or _, and then "
                "letters, digits and _ . : / - only."
            )
    input_name, output_name = (name or own for name, own in zip(names, usual, strict=True))
    if input_name == output_name:
        raise UsageError(
            f"The input and the output would both be called {input_name}. Expected different "
            "names. Change --input-name or --output-name."
        )


def renamed(
    model: onnx.ModelProto, input_name: str | None, output_name: str | None
) -> onnx.ModelProto:
    """The model with other names for its one input and its one output; None leaves a name.

    If a value inside has a name already, it gets the old name of that end.
    """
    if input_name in (None, model.graph.input[0].name) and output_name in (
        None,
        model.graph.output[0].name,
    ):
        return model
    result = type(model)()
    result.CopyFrom(model)
    if input_name is not None:
        _swap(result.graph, result.graph.input[0].name, input_name)
    if output_name is not None:
        _swap(result.graph, result.graph.output[0].name, output_name)
    return result


def with_usual_names(model: onnx.ModelProto, interface: Interface) -> onnx.ModelProto:
    """A model as it was before ``renamed``."""
    output = interface.output if len(model.graph.output) == 1 else None
    if interface.output == "feature-maps":
        output = None  # which are called the same by everybody
    return renamed(model, interface.input_name, output)


def _swap(graph: onnx.GraphProto, one: str, two: str) -> None:
    """Exchange the names of two values; there need be no second."""
    other = {one: two, two: one}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [other.get(name, name) for name in names]
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:
            value.name = other.get(value.name, value.name)
