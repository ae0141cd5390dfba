"""int8-dynamic on LiteRT: the weights, what holds them, and a whole export."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from float_graphs import CONFIG, centred, save_pictures
from networks import SMALL, float64_logits, images, trained

import levit_deploy
from levit_deploy import pipeline
from levit_deploy.errors import UsageError, VerificationError
from levit_deploy.passes import to_plain
from levit_deploy.passes.heads import drop_heads
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.quantize import Int8Options
from levit_deploy.targets.litert import LITERT
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.target import ExportOptions

pytestmark = pytest.mark.litert
ROUNDED = Provenance(
    checkpoint_sha256="ab" * 32,
    config=SMALL,
    head="mean",
    layout="tokens",
    precision="int8-dynamic",
)
FLOAT = dataclasses.replace(ROUNDED, precision="fp32")
BATCH = ExportOptions(batch_size=3)


def written(provenance, model=None):
    return LITERT.serialize(to_plain(model or trained()), provenance, BATCH)


@pytest.fixture(scope="module")
def floats():
    return written(FLOAT)


@pytest.fixture(scope="module")
def rounded():
    return written(ROUNDED)


def model_of(data):
    from levit_deploy.targets.litert_file import read_model

    return read_model(Path("it.tflite"), data)


def check(data, floats, rounded):
    from levit_deploy.targets.litert_int8_check import check_rounding

    check_rounding(Path("it.tflite"), data, floats, rounded)


def run(data, literal=False):
    artifact = LITERT.load(Path("it.tflite"), data, 1, literal)
    return artifact.run(images().numpy())


def by_name(model):
    return {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}


def test_weights_are_the_nearest_of_255_steps_of_their_channel(rounded):
    model, plain = model_of(rounded), to_plain(trained())
    tensors = by_name(model)
    for name in ("blocks.0.m.proj.1", "blocks.1.m.0", "head"):
        tensor, weight = tensors[f"{name}.weight"], plain.get_submodule(name).weight
        steps = model.buffers[tensor.buffer].data.view(np.int8).reshape(weight.shape)
        expected = weight.detach().double().numpy()
        scales = np.abs(expected).max(1, keepdims=True) / 127
        np.testing.assert_allclose(tensor.quantization.scale, scales[:, 0], rtol=1e-6)
        assert np.abs(steps - expected / scales).max() <= 0.5001
        assert (np.abs(steps).max(1) == 127).all()


def test_only_weights_are_rounded_and_not_those_of_the_first_convolution(floats, rounded):
    before, after = by_name(model_of(floats)), by_name(model_of(rounded))
    changed = {name for name in before if before[name].type != after[name].type}
    weights = {name for name in before if name.endswith(".weight")}
    assert changed == weights - {"patch_embed.0.weight"}


def test_it_computes_the_network_by_and_large(rounded):
    expected = float64_logits(trained(), images())
    error = np.sqrt(((run(rounded) - expected) ** 2).mean()) / expected.std()
    assert 1e-3 < error < 0.05


def test_fast_kernels_round_as_the_reference_kernels_do():
    between = []
    for seed in range(1, 6):
        data, expected = (
            written(ROUNDED, trained(seed=seed)),
            run(written(FLOAT, trained(seed=seed))),
        )
        fast, literal = run(data), run(data, literal=True)
        between.append(np.abs(fast - literal).max() / np.abs(literal - expected).max())
    # a last bit can take one input to the next step, from where it spreads
    assert np.median(between) < 1e-3
    assert max(between) < 2


def test_inputs_are_rounded_row_by_row_to_256_steps():
    """The last layer of the network by hand, from its features in float."""
    features = ExportOptions(batch_size=3, output="features")
    of_features = dataclasses.replace(ROUNDED, interface=features.interface())

    x = LITERT.load(
        Path("it.tflite"),
        LITERT.serialize(to_plain(drop_heads(trained())), of_features, features),
        1,
        True,
    ).run(images().numpy())
    x = x.astype(np.float64)
    low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    scale = ((high - low) / 255)[:, None]
    zero = np.rint(-128 - low[:, None] / scale)
    steps = np.clip(np.rint(x / scale) + zero, -128, 127) - zero
    head = to_plain(trained()).head
    weight = head.weight.detach().double().numpy()
    of_weight = np.abs(weight).max(1, keepdims=True) / 127
    summed = steps @ np.rint(weight / of_weight).T
    by_hand = summed * scale * of_weight.T + head.bias.detach().numpy()
    np.testing.assert_allclose(run(written(ROUNDED), literal=True), by_hand, atol=1e-6)


def test_the_file_and_one_under_other_names_and_metadata_are_right(floats, rounded):
    check(rounded, floats, rounded)
    named = dataclasses.replace(BATCH, input_name="it", output_name="its")
    write = LITERT.rounded(to_plain(trained()), ROUNDED, named, None)
    later = write(dataclasses.replace(ROUNDED, accuracy="lost nothing"))
    assert later == write(dataclasses.replace(ROUNDED, accuracy="lost nothing"))
    check(later, floats, rounded)
    artifact = LITERT.load(Path("it.tflite"), later, None, False)
    assert artifact.metadata["accuracy"] == "lost nothing"


def operators(model, kind):
    from levit_deploy.targets.litert_file import kinds

    of_graph = model.subgraphs[0].operators
    return [o for o, name in zip(of_graph, kinds(model), strict=True) if name == kind]


def numbers(model, name):
    buffer = model.buffers[by_name(model)[name].buffer]
    buffer.data = buffer.data.copy()
    return buffer.data


def one_weight_a_step_off(model):
    weights = numbers(model, "blocks.1.m.0.weight").view(np.int8)
    weights[7] += 1 if weights[7] < 100 else -1


def one_scale_off(model):
    scales = by_name(model)["head.weight"].quantization.scale.copy()
    scales[2] *= 1.001
    by_name(model)["head.weight"].quantization.scale = scales


def coarser_steps(model):
    tensor = by_name(model)["head.weight"]
    tensor.quantization.scale = tensor.quantization.scale * np.float32(2)
    weights = numbers(model, "head.weight").view(np.int8)
    weights[:] = np.rint(weights / 2)


def one_bias_off(model):
    numbers(model, "blocks.1.m.0.bias").view(np.float32)[3] += 1e-3


def the_other_sum(model):
    first, second = operators(model, "ADD")[1:3]
    second.inputs = first.inputs


def query_and_key_exchanged(model):
    operators(model, "BATCH_MATMUL")[0].inputs = operators(model, "BATCH_MATMUL")[0].inputs[::-1]


def another_activation(model):
    code = model.operatorCodes[operators(model, "HARD_SWISH")[0].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = 21  # RELU6


def another_activation_fused(model):
    operators(model, "FULLY_CONNECTED")[3].builtinOptions.fusedActivationFunction = 1


def symmetric_inputs(model):
    operators(model, "FULLY_CONNECTED")[3].builtinOptions.asymmetricQuantizeInputs = False


def another_axis(model):
    by_name(model)["blocks.1.m.0.weight"].quantization.quantizedDimension = 1


def another_output(model):
    model.subgraphs[0].outputs = model.subgraphs[0].outputs - 1


def another_output_of_the_signature(model):
    model.signatureDefs[0].outputs[0].tensorIndex -= 1


def an_operator_less(model):
    add = operators(model, "ADD")[1]
    model.subgraphs[0].operators.remove(add)


def a_second_graph(model):
    model.subgraphs = model.subgraphs * 2


SABOTAGE = [
    a_second_graph,
    one_weight_a_step_off,
    one_scale_off,
    coarser_steps,
    one_bias_off,
    the_other_sum,
    query_and_key_exchanged,
    another_activation,
    another_activation_fused,
    symmetric_inputs,
    another_axis,
    another_output,
    another_output_of_the_signature,
    an_operator_less,
]


@pytest.mark.parametrize("sabotage", SABOTAGE, ids=lambda function: function.__name__)
def test_a_file_that_is_wrong_in_one_place_is_refused(floats, rounded, sabotage):
    import flatbuffers

    model = model_of(rounded)
    sabotage(model)
    builder = flatbuffers.Builder(len(rounded))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    with pytest.raises(VerificationError, match="float network with its weights rounded: "):
        check(bytes(builder.Output()), floats, rounded)


def test_another_network_is_refused(floats, rounded):
    with pytest.raises(VerificationError, match=r"patch_embed\.0\.weight is not the checkpoint's"):
        check(written(ROUNDED, trained(seed=1)), floats, rounded)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dynamic")
    save_pictures(folder / "pictures", CONFIG.num_classes - 1, each=8)
    torch.save({"model": centred(CONFIG).state_dict()}, folder / "ckpt.pth")
    return folder


def test_an_export_is_judged_and_proven_and_verified_again(folder):
    checkpoint = levit_deploy.load(folder / "ckpt.pth", image_size=CONFIG.image_size)
    output, pictures = folder / "out.tflite", folder / "pictures"
    options = ExportOptions(batch_size=2, input="uint8", output="probabilities", input_name="it")
    int8 = Int8Options(pictures, 45.0, even_if_slower=True)
    published = levit_deploy.quantize(
        checkpoint, output, int8, format="litert", precision="int8-dynamic", options=options
    )
    proof = published.verification
    assert (proof.passed, proof.unrounded.passed) == (True, True)
    assert load_artifact(output).metadata["accuracy"] == proof.accuracy.sentence
    again = levit_deploy.verify(checkpoint, output, images=pictures, max_drop=45)
    assert again.cases == proof.cases


def test_static_int8_is_refused_with_what_there_is(tmp_path, checkpoint):
    with pytest.raises(UsageError, match=r"computes in fp32 or int8-dynamic"):
        pipeline.quantize(
            checkpoint, tmp_path / "out.tflite", tmp_path, format="litert", precision="int8"
        )
