import numpy as np
import onnx
import pytest
from float_graphs import noise

from levit_deploy.quantization.calibration import quantize_graph
from levit_deploy.quantization.rounding import block_of, quantized_blocks, restored
from levit_deploy.runtime.sessions import runner


def logits(model):
    return runner(model.SerializeToString(), None)(noise(3, seed=2))


def test_the_block_of_a_node():
    names = ("patch_embed.2", "patch_embed.3", "blocks.12.m.qkv", "to_tokens", "head")
    assert [block_of(name) for name in names] == [
        "patch_embed.2",
        "patch_embed.2",
        "blocks.12",
        "to_tokens",
        "head",
    ]


def test_every_block_with_a_product_is_quantized(plain, quantized):
    blocks = quantized_blocks(quantized)
    assert blocks == tuple(
        dict.fromkeys(block_of(n.name) for n in plain.graph.node if n.op_type in ("Conv", "Gemm"))
    )
    assert quantized_blocks(plain) == ()


def test_with_all_blocks_restored_it_is_the_float_network_bit_for_bit(plain, quantized):
    back = restored(quantized, plain, quantized_blocks(quantized))
    onnx.checker.check_model(back, full_check=True)
    assert {n.name for n in back.graph.node} == {n.name for n in plain.graph.node}
    assert {t.name for t in back.graph.initializer} == {t.name for t in plain.graph.initializer}
    np.testing.assert_array_equal(logits(back), logits(plain))
    np.testing.assert_array_equal(logits(restored(quantized, plain, ())), logits(quantized))


def test_a_restored_block_is_as_if_it_had_never_been_quantized(plain, quantized):
    """Beside onnxruntime's own way to leave nodes out."""
    import onnxruntime.quantization

    blocks = quantized_blocks(quantized)
    kept = blocks[len(blocks) // 2]
    quantize_static, left_out = onnxruntime.quantization.quantize_static, []

    def with_exclusion(*args, **kwargs):
        names = [n.name for n in plain.graph.node if block_of(n.name) == kept]
        left_out.extend(names)
        return quantize_static(*args, nodes_to_exclude=names, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxruntime.quantization.quantize_static", with_exclusion)
        theirs = quantize_graph(plain, noise(8), "MinMax", "any")
    assert left_out
    np.testing.assert_array_equal(logits(restored(quantized, plain, [kept])), logits(theirs))


def test_each_restored_block_brings_the_network_nearer(plain, quantized):
    blocks, expected = quantized_blocks(quantized), logits(plain)
    errors = [
        np.sqrt(np.mean((logits(restored(quantized, plain, blocks[:n])) - expected) ** 2))
        for n in (0, len(blocks) // 2, len(blocks) - 1, len(blocks))
    ]
    assert errors[0] > errors[2] > errors[3] == 0
    assert errors[1] < errors[0]
