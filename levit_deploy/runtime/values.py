"""Every value an artifact computes on the way to its logits, to find where it goes wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.runtime.sessions import onnx_session

if TYPE_CHECKING:
    import torch


def onnx_values(data: bytes, images: Images) -> Iterator[FloatArray]:
    """What every node of an ONNX model computes, by making each an output of the graph."""
    import onnx

    model = onnx.load_model_from_string(data)
    given = {output.name for output in model.graph.output}
    computed = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in computed if n not in given)
    session = onnx_session(model.SerializeToString())
    for value in session.run(None, {session.get_inputs()[0].name: images}):
        if np.issubdtype(value.dtype, np.floating):
            yield value.astype(np.float32, copy=False)


def torchscript_values(program: torch.jit.ScriptModule, images: Images) -> Iterator[FloatArray]:
    """What every operation of a TorchScript program computes, by returning it from the graph."""
    import torch

    graph = program.graph.copy()
    torch._C._jit_pass_inline(graph)
    for node in list(graph.nodes()):
        for value in node.outputs():
            if value.type().kind() == "TensorType":
                graph.registerOutput(value)
    with torch.inference_mode():
        values = torch._C._jit_interpret_graph(graph, (program._c, torch.from_numpy(images)))  # type: ignore[attr-defined]
    yield from _floating(values)


def module_values(module: torch.nn.Module, images: Images) -> Iterator[FloatArray]:
    """What every module within a module computes."""
    import torch

    values: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _given: object, value: torch.Tensor) -> None:
        values.append(value)

    hooks = [part.register_forward_hook(keep) for part in module.modules()]
    try:
        with torch.inference_mode():
            module(torch.from_numpy(images))
    finally:
        for hook in hooks:
            hook.remove()
    yield from _floating(values)


def _floating(values: Iterable[torch.Tensor]) -> Iterator[FloatArray]:
    for value in values:
        if value.is_floating_point():
            yield value.float().numpy()  # numpy knows no bfloat16
