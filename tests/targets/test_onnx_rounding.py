import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.onnx_rounding import (
    Rounding,
    gate_grid,
    gated_grid,
    grid_of,
    rounded_bias,
    rounded_weight,
)

INT16 = 2**15 - 1
ends = st.floats(-1e4, 1e4, width=32)


@given(ends, ends, st.sampled_from([("uint8", 0, 255), ("uint16", 0, 65535), ("int8", -127, 127)]))
def test_a_grid_holds_its_range_and_zero(one, other, kind_and_ends):
    low, high = sorted((one, other))
    kind, least, most = kind_and_ends
    grid = grid_of((low, high), kind)
    assert grid.kind == kind
    assert max(least, 0) <= grid.zero_point <= most
    assert grid.scale == np.float32(grid.scale) > 0
    for number in (low, 0.0, high):
        nearest = np.clip(np.rint(number / grid.scale) + grid.zero_point, least, most)
        away = abs(grid.scale * (nearest - grid.zero_point) - number)
        assert away <= (0 if number == 0 else 1.01 * grid.scale)


@given(st.floats(0, 700))
def test_minus_three_is_byte_zero_of_a_gated_grid_and_three_another_byte(high):
    grid = gated_grid((-1.0, high))
    assert grid.is_gated
    assert grid.scale * (0 - grid.zero_point) == pytest.approx(-3, rel=1e-6)
    assert grid.scale * (255 - grid.zero_point) >= high * (1 - 1e-6)
    one_more = 3 / (grid.zero_point + 1) * (255 - grid.zero_point - 1)
    assert grid.zero_point == 254 or one_more < high  # no finer grid reaches as high


def test_values_too_large_for_a_gated_grid_are_not_cut_off():
    grid = gated_grid((-1.0, 1000.0))
    assert not grid.is_gated
    assert grid.scale * (255 - grid.zero_point) == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize("least", [0.0, 1e-45, 1e-39])
def test_next_to_nothing_is_rounded_to_zeros(least):
    weight = np.full((2, 3), least, np.float32)
    weight[1] = 1
    numbers, scale = rounded_weight(weight, "any")
    assert numbers[0].tolist() == [0, 0, 0]
    assert numbers[1].min() >= 63
    assert np.all(scale >= np.finfo(np.float32).tiny)
    assert grid_of((-least, least)).scale == 1


def test_clipped_bytes_are_the_gate():
    grid = gated_grid((-4.0, 6.0))
    bytes_ = np.arange(256)
    x = 3 / grid.zero_point * (bytes_ - grid.zero_point)
    gate = gate_grid(grid)
    assert gate.zero_point == 0
    found = gate.scale * np.clip(bytes_, 0, 2 * grid.zero_point)
    np.testing.assert_allclose(found, np.clip((x + 3) / 6, 0, 1), rtol=1e-6)


def pair_sums(weight):
    """The largest and smallest sum of two products that are added in 16 bits, by brute force."""
    rows = weight.transpose(0, *range(2, weight.ndim), 1).reshape(len(weight), -1).astype(int)
    sums = []
    for row in rows:
        for first in range(0, len(row) - 1, 2):
            for a in (0, 255):
                sums += [a * row[first] + b * row[first + 1] for b in (0, 255)]
    return max(sums), min(sums)


@pytest.mark.parametrize("shape", [(24, 64), (8, 7), (12, 12, 3, 2), (6, 3, 3, 3)])
def test_no_two_products_overflow_16_bits_on_any_processor(shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    numbers, scale = rounded_weight(weight, "any")
    orders = [numbers]
    if shape[1:] == (3, 3, 3):  # OpenVINO fills three channels up to four
        orders.append(np.pad(numbers, ((0, 0), (0, 1), (0, 0), (0, 0))))
    sums = [pair_sums(order) for order in orders]
    largest, smallest = max(high for high, _ in sums), min(low for _, low in sums)
    assert largest <= INT16
    assert smallest >= -INT16 - 1
    assert max(largest, -smallest) > INT16 * 0.98  # and no coarser than that
    assert np.abs(numbers.astype(int)).reshape(len(weight), -1).max(1).mean() > 70
    steps = np.abs(numbers * scale.reshape(-1, *[1] * (len(shape) - 1)) - weight)
    assert np.all(steps.reshape(len(weight), -1) <= 0.5001 * scale[:, None])


def test_with_vnni_every_channel_uses_all_of_a_byte():
    weight = np.random.default_rng(0).standard_normal((24, 64)).astype(np.float32)
    weight[3] *= 1e-3
    numbers, _ = rounded_weight(weight, "vnni")
    np.testing.assert_array_equal(np.abs(numbers.astype(int)).max(1), 127)
    assert pair_sums(numbers)[0] > INT16


def test_a_channel_of_zeros_stays_zero():
    numbers, scale = rounded_weight(np.zeros((2, 4), np.float32), "any")
    assert not numbers.any()
    assert np.all(scale > 0)


def test_a_bias_is_in_steps_and_ends_where_32_bits_end():
    bias = np.array([1.0, -0.26, 1e9], np.float32)
    steps = np.array([0.5, 0.5, 1e-3], np.float32)
    np.testing.assert_array_equal(rounded_bias(bias, steps), [2, -1, 2**31 - 1])


@pytest.mark.parametrize("inner", [64, 66, 7])
def test_the_runtime_adds_the_worst_bytes_right(inner):
    """Bytes of 255 and weights at the limit, in a quantized product of onnxruntime."""
    weight = np.random.default_rng(0).uniform(0.2, 1, (16, inner)).astype(np.float32)
    numbers, scale = rounded_weight(weight, "any")
    x = np.full((3, inner), 255.0, np.float32)
    f32, u8, i8 = onnx.TensorProto.FLOAT, np.uint8, np.int8
    constants = {
        "s": np.float32(1),
        "z": u8(0),
        "w": numbers,
        "ws": scale,
        "wz": np.zeros(len(scale), i8),
    }
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        onnx.helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        onnx.helper.make_node("Gemm", ["d", "wd"], ["y"], transB=1),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "product",
        [onnx.helper.make_tensor_value_info("x", f32, x.shape)],
        [onnx.helper.make_tensor_value_info("y", f32, (3, 16))],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    (found,) = onnx_session(model.SerializeToString()).run(None, {"x": x})
    expected = x.astype(int) @ numbers.T.astype(int) * scale.astype(float)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_parts_stay_float_by_the_start_of_their_names():
    rounding = Rounding(ranges={}, cpu="any", floats=("blocks.1", "blocks.3.m.qkv"))
    assert not rounding.rounds("blocks.1.m.0")
    assert not rounding.rounds("blocks.3.m.qkv.q")
    assert rounding.rounds("blocks.3.m.proj.1")
    assert rounding.rounds("blocks.10.m.0")
