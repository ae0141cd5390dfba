"""The LiteRT file, run by its runtime and compared with float64."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interfaces import PIXELS, SQUARE, expected_logits, softmax
from networks import SMALL, configs, float64_logits, images, trained

import levit_deploy
from levit_deploy import pipeline
from levit_deploy.errors import ArtifactError, BackendError, UsageError
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.litert import LITERT
from levit_deploy.targets.litert_load import load
from levit_deploy.targets.target import ExportOptions

pytestmark = pytest.mark.litert
FEW_ULPS = 16 * 2.0**-23


def provenance(config=SMALL, **facts):
    return Provenance(
        checkpoint_sha256="ab" * 32, config=config, head="mean", layout="tokens", **facts
    )


def written(config=SMALL, seed=0, batch=3, **facts):
    options = ExportOptions(batch_size=batch)
    return LITERT.serialize(to_plain(trained(config, seed)), provenance(config, **facts), options)


@pytest.fixture(scope="module")
def data():
    return written()


def opened(data, **choices):
    return load(Path("it.tflite"), data, choices.get("threads"), choices.get("literal", False))


def interpreter(data, **choices):
    from ai_edge_litert.interpreter import Interpreter

    result = Interpreter(model_content=data, **choices)
    result.allocate_tensors()
    return result


def model_of(data):
    from levit_deploy.targets.litert_file import read_model

    return read_model(Path("it.tflite"), data)


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=FEW_ULPS * np.abs(expected).max())


@settings(deadline=None, max_examples=12)
@given(configs(), st.integers(0, 99))
def test_it_agrees_with_float64_on_any_architecture(config, seed):
    x = images(config)
    got = opened(written(config, seed)).run(x.numpy())
    expected = float64_logits(trained(config, seed), x)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("choices", [{"literal": True}, {"threads": 2}], ids=str)
def test_the_reference_kernels_and_two_threads_agree_with_float64(data, choices):
    assert_close(opened(data, **choices).run(images().numpy()), float64_logits(trained(), images()))


def test_its_users_give_a_picture_with_the_channels_last(data):
    run = interpreter(data).get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    x = images().permute(0, 2, 3, 1).numpy()
    answers = run(**{name: x})
    assert (name, [*answers]) == ("pixel_values", ["logits"])
    assert_close(answers["logits"], float64_logits(trained(), images()))


@pytest.mark.parametrize("config", [SMALL, SMALL.replace(activation="gelu", norm="layernorm")])
@pytest.mark.parametrize("input", ["float32", "uint8"])
def test_every_operator_goes_to_the_fast_kernels_in_one_piece(config, input):
    from levit_deploy.interface import Interface

    data = written(config, interface=Interface(input, "probabilities"))
    one_by_one = interpreter(data, experimental_disable_delegate_node_fusion=True)
    kinds = Counter(operator["op_name"] for operator in one_by_one._get_ops_details())
    taken = kinds.pop("DELEGATE")
    assert taken == sum(kinds.values()) > 100
    together = interpreter(data)._get_ops_details()
    assert [operator["op_name"] for operator in together].count("DELEGATE") == 1


def test_bytes_in_and_probabilities_out_under_other_names(tmp_path, square):
    options = ExportOptions(
        batch_size=3, input="uint8", output="probabilities", input_name="it", output_name="its"
    )
    published = pipeline.export(square, "litert", tmp_path / "out.tflite", options=options)
    run = interpreter(published.path.read_bytes()).get_signature_runner()
    np.testing.assert_allclose(
        run(it=PIXELS)["its"], softmax(expected_logits()), rtol=1e-4, atol=1e-6
    )
    assert pipeline.verify(square, published.path).passed


def test_the_batch_is_one_unless_another_is_chosen(tmp_path, checkpoint):
    path = tmp_path / "out.tflite"
    pipeline.export(checkpoint, "litert", path)
    assert opened(path.read_bytes()).batch_size == 1
    with pytest.raises(BackendError, match=r"shape \(3, 3, 64, 96\).* Expected \(1, 3, 64, 96\)"):
        opened(path.read_bytes()).run(images().numpy())


def test_the_provenance_is_an_entry_of_the_files_metadata(data):
    model = model_of(data)
    (entry,) = model.metadata
    found = json.loads(bytes(model.buffers[entry.buffer].data))
    assert entry.name == b"levit-deploy"
    assert Provenance.from_metadata(found) == provenance()
    assert opened(data).metadata == found


def test_a_file_says_nothing_of_this_machine(data):
    paths = [levit_deploy.__file__, torch.__file__, sys.executable, str(Path.cwd() / "x")]
    folders = [str(Path(path).parent) for path in paths] + [str(Path.home())]
    assert not [folder for folder in folders if folder.encode() in data]
    assert b"/usr" not in data
    assert b"/tmp" not in data


def test_numbers_are_aligned_as_the_schema_asks(data):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data)
    start = np.frombuffer(data, np.uint8).ctypes.data
    for i in range(model.BuffersLength()):
        if (buffer := model.Buffers(i)).DataLength():
            assert (buffer.DataAsNumpy().ctypes.data - start) % 16 == 0


def test_the_values_on_the_way_are_those_of_every_operator(data):
    values = list(opened(data).values(images().numpy()))
    assert len(values) == len(model_of(data).subgraphs[0].operators)
    assert_close(values[-1], float64_logits(trained(), images()))
    stem = to_plain(trained()).patch_embed
    with torch.inference_mode():
        expected = stem(images()).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(values[10], expected, atol=1e-5)  # PAD, CONV_2D, HARD_SWISH, ...


def relabelled(data, change):
    """The file with other metadata."""
    import flatbuffers

    model = model_of(data)
    buffer = model.buffers[model.metadata[0].buffer]
    metadata = json.loads(bytes(buffer.data))
    change(metadata)
    buffer.data = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(tool="another"), "without the metadata of levit-deploy"),
        (lambda m: m.update(config="{}"), "damaged provenance"),
        (lambda m: m.pop("head"), "damaged provenance"),
        (lambda m: m.update(input="uint8"), "in uint8, and"),
        (lambda m: m.update(output="features"), "Its metadata say"),
        (lambda m: m.update(output="sounds"), "unknown interface"),
        (lambda m: m.update(config=SQUARE.to_json()), r"say \[64, 64, 3\]"),
    ],
)
def test_a_file_with_other_metadata_is_refused(data, change, said):
    with pytest.raises(ArtifactError, match=said):
        opened(relabelled(data, change))


@pytest.mark.parametrize("length", [12, 1000, 50_000])
def test_a_damaged_file_is_refused(data, length):
    with pytest.raises(ArtifactError, match=r"it\.tflite"):
        opened(data[:length])


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"layout": "spatial"}, "--layout spatial is not for --format litert"),
        ({"options": ExportOptions(opset=17)}, "--opset is not for --format litert, but for onnx"),
        ({"options": ExportOptions(batch_size="dynamic")}, "--batch-size dynamic is not for"),
        ({"precision": "fp16"}, "--precision fp16 is not for --format litert"),
    ],
)
def test_options_of_other_formats_are_refused(tmp_path, checkpoint, choices, said):
    with pytest.raises(UsageError, match=said):
        pipeline.export(checkpoint, "litert", tmp_path / "out.tflite", **choices)
    assert not list(tmp_path.glob("*.tflite"))


def test_exporting_does_not_change_the_model():
    model = to_plain(trained())
    before = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    LITERT.serialize(model, provenance(), ExportOptions(batch_size=1))
    assert {n: t.numpy().tobytes() for n, t in model.state_dict().items()} == before
