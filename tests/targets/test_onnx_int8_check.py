import numpy as np
import onnx
import pytest
import torch
from float_graphs import CONFIG, int8_form, noise, rounded
from networks import trained
from onnx import numpy_helper

from levit_deploy.errors import VerificationError
from levit_deploy.targets.onnx_int8_check import check_rounding
from levit_deploy.targets.onnx_schemes import W8A16


def copied(model):
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opset": 13},
        {"opset": 23},
        {"layout": "spatial"},
        {"batch_size": 2},
        {"config": CONFIG.replace(activation="silu")},
        {"config": CONFIG.replace(image_size=(36, 50))},
    ],
)
def test_nothing_but_rounding_is_found_in_what_was_rounded(options):
    form, images = int8_form(**options), noise(4, options.get("config", CONFIG))
    plain = form.unrounded()
    check_rounding(rounded(form, images, cpu="vnni"), plain)
    check_rounding(rounded(form, images, floats=form.places().parts[::3]), plain)


@pytest.mark.parametrize("options", [{}, {"layout": "spatial"}, {"input": "uint8"}])
def test_16_bits_are_rounding_too(options):
    form, images = int8_form(opset=21, batch_size=1, scheme=W8A16, **options), noise(2)
    if "input" in options:
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    plain = form.unrounded()
    check_rounding(rounded(form, images, cpu="vnni"), plain)
    check_rounding(rounded(form, images, floats=form.places().parts[::3]), plain)


def test_bytes_of_a_picture_stand_for_themselves():
    form = int8_form(input="uint8")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    check_rounding(rounded(form, pixels), form.unrounded())


def test_a_channel_of_nearly_no_weights_keeps_its_bias():
    model = trained(CONFIG)
    with torch.no_grad():
        for head in (model.head, model.head_dist):
            head.bn.weight.fill_(1)
            head.bn.bias.zero_()
            head.l.weight[0] *= 1e-12
            head.l.bias[0] = 3.0
    form = int8_form(model=model)
    check_rounding(rounded(form, noise(2)), form.unrounded())


def initializer(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def change(model, name, function):
    tensor = initializer(model, name)
    array = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(function(array).astype(array.dtype), name))


def two_steps_off(array):
    array.flat[array.size // 2] += 2 if array.flat[array.size // 2] < 0 else -2
    return array


def named(model, *op_types):
    return next(n for n in model.graph.node if n.op_type in op_types)


def swap_inputs(model):
    adds = [n for n in model.graph.node if n.op_type == "MatMul"]
    adds[0].input[0], adds[1].input[0] = adds[1].input[0], adds[0].input[0]


def maker(model, name):
    return next(n for n in model.graph.node if name in n.output)


def reader(model, node):
    """A node that reads bytes, behind those that move them."""
    found = next(n for n in model.graph.node if node.output[0] in n.input)
    return found if found.op_type == "DequantizeLinear" else reader(model, found)


def setattr_input(node, index, name):
    node.input[index] = name


def other_constant(model, node, index, factor):
    """A node's own constant, times a factor, or one more if that changes nothing."""
    array = numpy_helper.to_array(initializer(model, node.input[index]))
    changed = (array * np.asarray(factor)).astype(array.dtype)
    changed = changed + array.dtype.type(1) if np.array_equal(changed, array) else changed
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(changed), "other"))
    node.input[index] = "other"


def other_grid(model, factor, value="pixel_values"):
    """Another scale, for those who round and those who read: a grid all the same."""
    there = next(
        n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == value
    )
    back = reader(model, there)
    other_constant(model, there, 1, factor)
    back.input[1] = "other"


def swap_gate(model):
    """The value itself twice, and no gate."""
    product = named(model, "Mul")
    product.input[1] = product.input[0]


def without_clip(model):
    clip = named(model, "Clip")
    for node in model.graph.node:
        if node.input and node.input[0] == clip.output[0]:
            node.input[0] = clip.input[0]
    model.graph.node.remove(clip)


def swap_q_and_k(model):
    q, k = (maker(model, f"blocks.0.m.qkv.{part}.gemm") for part in "qk")
    q.output[0], k.output[0] = k.output[0], q.output[0]
    q.name, k.name = k.name, q.name


def move_another(model):
    moves = [
        n for n in model.graph.node if n.op_type == "Transpose" and n.name.endswith(".heads_first")
    ]
    moves[0].input[0], moves[1].input[0] = moves[1].input[0], moves[0].input[0]


def missing_gate(model, plain):
    """The name of a gate that is bytes, and those who read it."""
    there = {name for node in model.graph.node for name in node.output}
    gate = next(n.output[0] for n in plain.graph.node if n.output[0] not in there)
    product = next(n for n in plain.graph.node if gate in n.input)
    return gate, next(n for n in model.graph.node if n.name == product.name)


def gate_from(model, plain, op_type, inputs, name="gate", **attributes):
    """Compute a gate that is missing in another way."""
    gate, product = missing_gate(model, plain)
    model.graph.node.append(onnx.helper.make_node(op_type, inputs, [gate], name, **attributes))
    product.input[1] = gate
    return gate, product


def gate_by_a_second_node_of_one_name(model, plain):
    # what is looked up by its name is the second, and the first is what computes
    gate_from(model, plain, "Sigmoid", ["head.gemm"], plain.graph.node[-1].name)
    node = model.graph.node.pop()
    model.graph.node.insert(0, node)


def stored_gate(model, plain):
    gate, product = missing_gate(model, plain)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1), np.float32), gate))
    product.input[1] = gate


def sparse_gate(model, plain):
    gate, product = missing_gate(model, plain)
    values = numpy_helper.from_array(np.ones(1, np.float32), gate)
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [1]))
    product.input[1] = gate


def gate_through_other_bytes(model, plain):
    other = named(model, "DequantizeLinear")
    gate, product = gate_from(model, plain, "DequantizeLinear", other.input)
    grid = list(other.input[1:])
    there = onnx.helper.make_node("QuantizeLinear", [gate, *grid], ["there"], "there")
    back = onnx.helper.make_node("DequantizeLinear", ["there", *grid], ["back"], "back")
    model.graph.node.extend([there, back])
    product.input[1] = "back"


def rounded_again(model, name, factor):
    """A weight in steps that are larger by a factor."""
    scale = numpy_helper.to_array(initializer(model, f"{name}_scale"))
    steps = scale.reshape(-1, *[1] * (len(initializer(model, f"{name}_quantized").dims) - 1))
    change(
        model, f"{name}_quantized", lambda a: np.rint((a * steps) / (steps * np.float32(factor)))
    )
    change(model, f"{name}_scale", lambda a: a * np.float32(factor))


def rounded_to_nothing(model, name):
    """A float weight in steps of which it is less than a half."""
    tensor = initializer(model, name)
    numbers = np.zeros(tensor.dims, np.int8)
    for constant, end in ((numbers, "n"), (np.float32(1e6), "s"), (np.int8(0), "z")):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(constant), end))
    model.graph.node.append(
        onnx.helper.make_node("DequantizeLinear", ["n", "s", "z"], ["nothing"], "nothing")
    )
    for node in model.graph.node:
        node.input[:] = ["nothing" if given == name else given for given in node.input]


def attribute(node, **attributes):
    node.attribute.extend(onnx.helper.make_attribute(*pair) for pair in attributes.items())


def weight_reader(model, name="head.weight"):
    return next(n for n in model.graph.node if f"{name}_quantized" in n.input)


def stored(model, name, array):
    initializer(model, name).CopyFrom(numpy_helper.from_array(array, name))


IN_PLACE_OF_A_GATE = {
    "a second node of one name": gate_by_a_second_node_of_one_name,
    "a constant": stored_gate,
    "a sparse constant": sparse_gate,
    "floats, clipped": lambda m, plain: gate_from(m, plain, "Clip", ["blocks.0.m.norm"]),
    "other bytes": lambda m, plain: gate_from(
        m, plain, "DequantizeLinear", named(m, "DequantizeLinear").input
    ),
    "other bytes, rounded again": gate_through_other_bytes,
}


@pytest.mark.parametrize("name", IN_PLACE_OF_A_GATE)
def test_nothing_stands_in_for_a_gate_that_is_bytes(plain, quantized, name):
    model = copied(quantized)
    IN_PLACE_OF_A_GATE[name](model, plain)
    # bytes that a node of the float graph gives are compared with that node
    words = "comes from two places, or from another|is another operation"
    with pytest.raises(VerificationError, match=words):
        check_rounding(model, plain)


SABOTAGE = {
    "a weight in coarser steps": lambda m: rounded_again(m, "head.weight", 4),
    "one channel in coarser steps": lambda m: rounded_again(
        m, "head.weight", np.where(np.arange(CONFIG.num_classes) == 2, 4, 1)[:, None]
    ),
    "a bias in coarser steps": lambda m: rounded_again(m, "head.bias", 1e6),
    "a bias in finer steps": lambda m: rounded_again(m, "head.bias", 0.5),
    "a bias that is nothing": lambda m: rounded_to_nothing(m, "blocks.0.m.attention_bias"),
    "a bias with a zero point": lambda m: (
        change(m, "head.bias_zero_point", lambda a: a + 5),
        change(m, "head.bias_quantized", lambda a: a + 5),
    ),
    "a weight of another shape": lambda m: change(m, "head.weight_quantized", lambda a: a[:, 1:]),
    "a weight of other numbers": lambda m: stored(
        m,
        "head.weight_quantized",
        numpy_helper.to_array(initializer(m, "head.weight_quantized")).astype(np.int16),
    ),
    "a float weight of another type": lambda m: stored(
        m,
        "blocks.0.m.attention_bias",
        numpy_helper.to_array(initializer(m, "blocks.0.m.attention_bias")).astype(np.float64),
    ),
    "one scale too many": lambda m: change(m, "head.weight_scale", lambda a: np.append(a, a[:1])),
    "one zero point for all channels": lambda m: change(
        m, "head.weight_zero_point", lambda a: a[0]
    ),
    "scales in blocks": lambda m: (
        change(m, "head.weight_scale", lambda a: a[:, None]),
        change(m, "head.weight_zero_point", lambda a: a[:, None]),
    ),
    "an axis that is none": lambda m: setattr(weight_reader(m).attribute[0], "i", 7),
    "another axis": lambda m: setattr(weight_reader(m).attribute[0], "i", 1),
    "blocks of a weight": lambda m: attribute(weight_reader(m), block_size=2),
    "an operation of another domain": lambda m: setattr(
        named(m, "QuantizeLinear"), "domain", "com.microsoft"
    ),
    "a signed zero point": lambda m: stored(
        m, reader(m, named(m, "QuantizeLinear")).input[2], np.int8(3)
    ),
    "two zero points": lambda m: stored(
        m, reader(m, named(m, "QuantizeLinear")).input[2], np.array([3, 3], np.uint8)
    ),
    "no zero point": lambda m: reader(m, named(m, "QuantizeLinear")).input.pop(),
    "a clip with one end": lambda m: named(m, "Clip").input.pop(),
    "a clip at a list": lambda m: stored(m, named(m, "Clip").input[2], np.array([9, 9], np.uint8)),
    "a clip of clipped bytes": lambda m: setattr_input(
        [n for n in m.graph.node if n.op_type == "Clip"][1], 0, named(m, "Clip").output[0]
    ),
    "bytes taken for floats": lambda m: setattr_input(
        named(m, "Gemm"), 0, named(m, "QuantizeLinear").output[0]
    ),
    "floats moved for bytes": lambda m: setattr_input(
        reader(m, named(m, "QuantizeLinear")), 0, "patch_embed.0.conv"
    ),
    "bytes read and rounded again": lambda m: setattr_input(
        [n for n in m.graph.node if n.op_type == "QuantizeLinear"][1],
        0,
        reader(m, named(m, "QuantizeLinear")).output[0],
    ),
    "a value of the input's name": lambda m: m.graph.initializer.append(
        numpy_helper.from_array(np.zeros(1, np.float32), "pixel_values")
    ),
    "two constants of one name": lambda m: m.graph.initializer.append(m.graph.initializer[0]),
    "two values of one name": lambda m: m.graph.node.append(
        onnx.helper.make_node("Clip", named(m, "Clip").input, named(m, "Clip").output, "again")
    ),
    "another operator set": lambda m: setattr(m.opset_import[0], "version", 18),
    "two operator sets": lambda m: m.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 12)),
    "a weight two steps off": lambda m: change(m, "head.weight_quantized", two_steps_off),
    "a bias one step off": lambda m: change(m, "head.bias_quantized", lambda a: a + 1),
    "a bias off": lambda m: change(m, "head.bias_quantized", lambda a: a + 1000),
    "a scale off by 2 %": lambda m: change(m, "head.weight_scale", lambda a: a * 1.02),
    "a zero point off": lambda m: change(m, "head.weight_zero_point", lambda a: a + 2),
    "an attention bias off": lambda m: change(m, "blocks.0.m.attention_bias", lambda a: a + 1e-3),
    "a shape off": lambda m: change(
        m, next(t.name for t in m.graph.initializer if "int64" in t.name), lambda a: a[::-1]
    ),
    "an input rounded with another scale than it is read with": lambda m: other_constant(
        m, reader(m, named(m, "QuantizeLinear")), 1, 1.5
    ),
    "an activation scale of NaN": lambda m: other_grid(m, np.nan),
    "a negative weight scale": lambda m: change(m, "head.weight_scale", lambda a: -a),
    "an infinite weight scale": lambda m: change(m, "head.weight_scale", lambda a: a * np.inf),
    "a negative activation scale": lambda m: other_grid(m, -1),
    "an activation for another": lambda m: setattr(named(m, "Mul"), "op_type", "Add"),
    "a gate for its input": swap_gate,
    "a gate without its clip": without_clip,
    "a gate with another clip": lambda m: other_constant(m, named(m, "Clip"), 2, 1),
    "a gate clipped above zero": lambda m: other_constant(m, named(m, "Clip"), 1, 1),
    "a gate of other bytes": lambda m: setattr_input(
        named(m, "Clip"), 0, [n for n in m.graph.node if n.op_type == "Clip"][1].input[0]
    ),
    "a gate on another grid": lambda m: other_constant(m, reader(m, named(m, "Clip")), 1, 1.02),
    "a gated grid that is none": lambda m: other_grid(m, 1.02, "patch_embed.0.conv"),
    "q and k swapped": swap_q_and_k,
    "bytes read without their zero point": lambda m: other_constant(
        m, reader(m, named(m, "QuantizeLinear")), 2, 1
    ),
    "moved bytes of another value": move_another,
    "an attribute": lambda m: setattr(named(m, "Softmax").attribute[0], "i", 1),
    "wires crossed": swap_inputs,
    "a node more": lambda m: m.graph.node.append(
        onnx.helper.make_node("Relu", ["logits"], ["more"], "more")
    ),
    "another output": lambda m: setattr(m.graph.output[0], "name", "scores"),
    "another input": lambda m: setattr(m.graph.input[0], "name", "input"),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_whatever_is_not_rounding_is_refused(plain, quantized, name):
    model = copied(quantized)
    SABOTAGE[name](model)
    assert model != quantized
    with pytest.raises(VerificationError, match="not the checkpoint's float network"):
        check_rounding(model, plain)


def quantize_of(model, value):
    return next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and value in n.input)


def answer_by(model, value):
    """Round another value, and call it the logits."""
    quantize_of(model, "head.gemm").input[0] = value


def skip(model, op_type):
    """Leave a node out: whoever takes its output takes its input."""
    node = named(model, op_type)
    for other in model.graph.node:
        other.input[:] = [node.input[0] if n == node.output[0] else n for n in other.input]
    model.graph.node.remove(node)


def swap_split(model):
    node = named(model, "Split")
    node.output[0], node.output[1] = node.output[1], node.output[0]


SABOTAGE_OF_16_BITS = {
    "other logits": lambda m: answer_by(m, "pool.mean"),
    "logits read with another scale": lambda m: other_constant(m, maker(m, "logits"), 1, 1.02),
    "logits read with another zero point": lambda m: other_constant(m, maker(m, "logits"), 2, 1),
    "moved values rounded to 8 bits of them": lambda m: other_constant(
        m, quantize_of(m, "blocks.0.m.qkv.heads"), 1, 256
    ),
    "q and k swapped": swap_split,
    "no HardSwish": lambda m: skip(m, "HardSwish"),
    "no softmax": lambda m: skip(m, "Softmax"),
    "an attention bias one step off": lambda m: change(
        m, "blocks.0.m.attention_bias_quantized", one_step_off_of_16_bits
    ),
    "a weight two steps off": lambda m: change(m, "head.weight_quantized", two_steps_off),
    "a scale of one channel off": lambda m: change(m, "head.weight_scale", first_off),
    "scales of two channels exchanged": lambda m: change(
        m, "blocks.0.m.qkv.weight_scale", lambda a: a[::-1]
    ),
    "a bias off": lambda m: change(m, "head.bias_quantized", lambda a: a + 2),
}


def one_step_off_of_16_bits(array):
    array.flat[0] ^= 1
    return array


def first_off(array):
    array[0] *= 1.02
    return array


@pytest.fixture(scope="module")
def of_16_bits():
    form = int8_form(opset=21, batch_size=1, scheme=W8A16)
    return form.unrounded(), rounded(form, noise(2), cpu="vnni")


@pytest.mark.parametrize("name", SABOTAGE_OF_16_BITS)
def test_whatever_is_not_rounding_to_16_bits_is_refused(of_16_bits, name):
    unrounded, sound = of_16_bits
    model = copied(sound)
    SABOTAGE_OF_16_BITS[name](model)
    assert model != sound
    with pytest.raises(VerificationError, match="not the checkpoint's float network"):
        check_rounding(model, unrounded)


def test_a_rounded_weight_that_is_computed_is_refused(plain, quantized):
    model = copied(quantized)
    gemm = next(n for n in model.graph.node if "logits" in n.output)
    gemm.input[1] = next(n for n in model.graph.node if n.op_type == "MatMul").output[0]
    with pytest.raises(VerificationError, match="computed, and was a weight"):
        check_rounding(model, plain)


def test_another_network_rounded_is_refused(plain, quantized):
    other = copied(plain)
    change(other, "blocks.1.m.0.weight", lambda a: a * 1.05)
    with pytest.raises(VerificationError, match="rounded"):
        check_rounding(quantized, other)
