"""The limit of this machine: the network's convolutions and matrix products alone."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnxruntime import OrtValue

from levit_deploy.arrays import FloatArray
from levit_deploy.config import LeViTConfig, subsampled
from levit_deploy.runtime.sessions import onnx_session

Product = tuple[int, int, int, int]  # how many, rows, inner, columns


def products(config: LeViTConfig) -> Iterator[Product]:
    """Every matrix product of one image behind the stem, in order."""
    tokens = [height * width for height, width in config.resolutions]
    for i, (stage, n) in enumerate(zip(config.stages, tokens, strict=True)):
        h, k, d, dim = stage.num_heads, stage.key_dim, stage.value_dim, stage.dim
        for _ in range(stage.depth):
            yield 1, n, dim, h * (2 * k + d)
            yield h, n, k, n
            yield h, n, n, d
            yield 1, n, h * d, dim
            if stage.mlp_dim:
                yield 1, n, dim, stage.mlp_dim
                yield 1, n, stage.mlp_dim, dim
        if i < len(config.downsamples):
            down, out_dim, queries = config.downsamples[i], config.stages[i + 1].dim, tokens[i + 1]
            h, k, d = down.num_heads, down.key_dim, down.value_dim
            yield 1, n, dim, h * (k + d)
            yield 1, queries, dim, h * k
            yield h, queries, k, n
            yield h, queries, n, d
            yield 1, queries, h * d, out_dim
            if down.mlp_dim:
                yield 1, queries, out_dim, down.mlp_dim
                yield 1, queries, down.mlp_dim, out_dim
    yield 1, 1, config.stages[-1].dim, config.num_classes


def products_alone(config: LeViTConfig, batch_size: int, threads: int) -> Callable[[], object]:
    """A callable that computes them all in onnxruntime, in float32, for a batch, and nothing else.

    No product waits for another's result. Products with weights take the batch's rows at once, and
    the weights are packed beforehand, as in every runtime. Those of attention are one for each head
    of each image.
    """
    alone = _Products()
    grid = config.image_size
    for in_dim, out_dim in itertools.pairwise((config.in_channels, *config.stem_dims)):
        alone.convolution((batch_size, in_dim, *grid), out_dim)
        grid = subsampled(grid, 2)
    for many, rows, inner, columns in products(config):
        if many == 1:
            alone.product((batch_size * rows, inner), (inner, columns), constant=True)
        else:
            count = batch_size * many
            alone.product((count, rows, inner), (count, inner, columns), constant=False)
    session = onnx_session(alone.model().SerializeToString(), threads)
    binding = session.io_binding()  # into ready memory
    for name, array in alone.given.items():
        binding.bind_cpu_input(name, array)
    for output, first in zip(session.get_outputs(), session.run(None, alone.given), strict=True):
        binding.bind_ortvalue_output(output.name, OrtValue.ortvalue_from_numpy(first))
    return lambda: session.run_with_iobinding(binding)


class _Products:
    """A graph of products side by side."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.given: dict[str, FloatArray] = {}
        self.constants: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []

    def convolution(self, shape: Sequence[int], channels: int) -> None:
        weight = self._constant((channels, shape[1], 3, 3))
        inputs, name = [self._given(shape), weight], f"out.{len(self.nodes)}"
        pads, strides = [1, 1, 1, 1], [2, 2]
        self.nodes.append(onnx.helper.make_node("Conv", inputs, [name], pads=pads, strides=strides))

    def product(self, left: Sequence[int], right: Sequence[int], *, constant: bool) -> None:
        matrix = self._constant(right) if constant else self._given(right)
        name = f"out.{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node("MatMul", [self._given(left), matrix], [name]))

    def _given(self, shape: Sequence[int]) -> str:
        """One array a shape, so that it is in the cache, like a value just computed."""
        name = "given." + "x".join(map(str, shape))
        if name not in self.given:
            self.given[name] = self.rng.standard_normal(shape, dtype=np.float32)
        return name

    def _constant(self, shape: Sequence[int]) -> str:
        name = f"constant.{len(self.constants)}"
        array = self.rng.standard_normal(shape, dtype=np.float32)
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def model(self) -> onnx.ModelProto:
        def value(name: str, shape: Sequence[int] | None) -> onnx.ValueInfoProto:
            return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

        inputs = [value(name, array.shape) for name, array in self.given.items()]
        outputs = [value(node.output[0], None) for node in self.nodes]
        graph = onnx.helper.make_graph(self.nodes, "products", inputs, outputs, self.constants)
        opset = onnx.helper.make_opsetid("", 17)
        return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
