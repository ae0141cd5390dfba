"""int8 from a checkpoint to a proven file, and what is no such file."""

import dataclasses
import io
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from command_line import run
from float_graphs import centred, save_pictures
from networks import SHALLOW
from onnx import numpy_helper
from scans import with_metadata

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import ArtifactError, InputError, UsageError, VerificationError
from levit_deploy.pictures import split
from levit_deploy.quantization import quantize
from levit_deploy.quantization.quantize import Int8Options
from levit_deploy.targets import onnx_int8_check
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.onnx import ONNX
from levit_deploy.targets.onnx_int8_writer import int8_form
from levit_deploy.targets.plan import Plan
from levit_deploy.targets.target import ExportOptions
from levit_deploy.verification.prove import prove
from levit_deploy.verification.result import Verification

CONFIG = SHALLOW.replace(image_size=(32, 32))
# one folder fewer than classes: judged by agreement
ANYTHING = {"max_drop": 45.0, "even_if_slower": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    save_pictures(folder / "pictures", CONFIG.num_classes - 1, each=8)
    torch.save({"model": centred(CONFIG).state_dict()}, folder / "ckpt.pth")
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder):
    return read_checkpoint(folder / "ckpt.pth", image_size=CONFIG.image_size)


def export(checkpoint, folder, output, **options):
    choices = {**ANYTHING, **options.pop("int8", {})}
    int8 = Int8Options(str(folder / "pictures"), **choices)
    return pipeline.quantize(checkpoint, output, int8, **options)


@pytest.fixture(scope="module")
def published(checkpoint, folder):
    return export(checkpoint, folder, folder / "int8.onnx")


def verify(checkpoint, folder, path, **options) -> Verification:
    return pipeline.verify(checkpoint, path, images=folder / "pictures", **options)


def sabotaged(folder, tmp_path, change):
    model = onnx.load(folder / "int8.onnx")
    change({tensor.name: tensor for tensor in model.graph.initializer})
    path = tmp_path / "sabotaged.onnx"
    onnx.save(model, path)
    return path


def test_it_is_published_with_every_figure(published, checkpoint):
    assert published.path.exists()
    assert published.layout == "tokens"
    how, proof = published.quantization, published.verification
    assert how.errors[how.method] > 0
    assert how.speed.median > 0
    assert proof.precision == "int8"
    assert proof.passed
    assert proof.unrounded.passed
    assert proof.unrounded.precision == "fp32"
    assert proof.accuracy == how.accuracy  # what was searched for is what was written
    assert proof.accuracy.pictures == 36
    assert proof.cases[-1].name == proof.unrounded.cases[-1].name == "pictures"
    metadata = load_artifact(published.path).metadata
    assert metadata["precision"] == "int8"
    assert metadata["checkpoint_sha256"] == checkpoint.sha256
    assert metadata["accuracy"] == proof.accuracy.sentence


def test_it_is_as_far_from_the_original_as_was_measured(published, checkpoint):
    images = np.random.default_rng(7).standard_normal((6, 3, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = checkpoint.model.double()(torch.from_numpy(images).double()).numpy()
    checkpoint.model.float()
    found = load_artifact(published.path).run(images)
    apart = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    assert 0.001 < apart < 1


def test_verify_says_the_same_and_asks_for_pictures(published, checkpoint, folder):
    proof = verify(checkpoint, folder, published.path, max_drop=45)
    assert proof.passed
    assert proof.cases == published.verification.cases
    assert proof.accuracy.pictures == 48  # here, none is kept for calibration
    with pytest.raises(UsageError, match="--images"):
        pipeline.verify(checkpoint, published.path)


def test_folders_are_the_classes_that_the_artifact_calls_so(
    published, checkpoint, folder, tmp_path
):
    assert verify(checkpoint, folder, published.path, max_drop=45).accuracy.float_top1 is None
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    labelled = tmp_path / "labelled.onnx"
    labels = json.dumps([*names, "no folder"])
    labelled.write_bytes(with_metadata(published.path.read_bytes(), labels=labels))
    assert verify(checkpoint, folder, labelled, max_drop=45).accuracy.float_top1 is not None


def test_a_drop_that_is_not_allowed_fails(published, checkpoint, folder):
    proof = verify(checkpoint, folder, published.path, max_drop=0)
    assert not proof.passed
    with pytest.raises(VerificationError, match="On 48 pictures: the same top-1"):
        proof.raise_if_failed()


def test_confidence_is_asked_of_every_picture(published, checkpoint, folder, monkeypatch):
    monkeypatch.setattr(split, "MOST_JUDGING", 20)
    assert verify(checkpoint, folder, published.path, max_drop=45).accuracy.pictures == 20
    proof = verify(checkpoint, folder, published.path, max_drop=45, confident=True)
    assert proof.accuracy.pictures == 48
    least = proof.accuracy.drop + 0.01
    proof = verify(checkpoint, folder, published.path, max_drop=least, confident=True)
    assert proof.verdict == "not proven"
    with pytest.raises(VerificationError, match=r"accurate as --confident asks\. On 48 pictures"):
        proof.raise_if_failed()


def test_the_options_for_confidence_arrive(checkpoint, folder, tmp_path, monkeypatch):
    options = ("--image-size", "32", "--confident", "--max-drop", "1")
    int8 = ("--precision", "int8", "--images", folder / "pictures")
    monkeypatch.setattr(quantize, "quantized", pytest.fail)
    arguments = (folder / "ckpt.pth", "-o", tmp_path / "x.onnx", *int8, *options)
    code, _, err = run("export", *arguments)
    assert (code, list(tmp_path.iterdir())) == (1, [])
    assert "36 pictures to judge by are too few for --confident" in " ".join(err.split())
    pipeline.export(checkpoint, "onnx", tmp_path / "float.onnx")
    code, _, err = run("verify", folder / "ckpt.pth", tmp_path / "float.onnx", *options[:3])
    assert (code, "--confident is for int8" in err) == (2, True)


@pytest.mark.parametrize("name", ["head.weight_quantized", "blocks.3.m.0.bias_quantized"])
@pytest.mark.usefixtures("published")
def test_a_changed_weight_is_refused(checkpoint, folder, tmp_path, name):
    def change(tensors):
        array = numpy_helper.to_array(tensors[name]).copy()
        array.flat[3] = -array.flat[3] - 5
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))

    with pytest.raises(VerificationError, match="not the checkpoint's, rounded"):
        verify(checkpoint, folder, sabotaged(folder, tmp_path, change), max_drop=45)


@pytest.mark.usefixtures("published")
def test_ranges_that_clip_show_in_the_answers(checkpoint, folder, tmp_path):
    def change(tensors):  # both who round and who read: a valid grid, far too small
        for name, tensor in tensors.items():
            if name.startswith("patch_embed.1") and name.endswith("_scale"):
                array = numpy_helper.to_array(tensor) / np.float32(1000)
                tensor.CopyFrom(numpy_helper.from_array(array, name))

    path = sabotaged(folder, tmp_path, change)
    proof = verify(checkpoint, folder, path)
    assert proof.accuracy.agreement < 90
    with pytest.raises(VerificationError, match="the same top-1 on"):
        proof.raise_if_failed()


def test_another_checkpoint_is_refused(published, folder, tmp_path):
    torch.save({"model": centred(CONFIG, seed=3).state_dict()}, tmp_path / "other.pth")
    other = read_checkpoint(tmp_path / "other.pth", image_size=CONFIG.image_size)
    with pytest.raises(VerificationError, match="not the checkpoint's float network"):
        verify(other, folder, published.path, max_drop=45)


def test_a_float_file_that_claims_int8_is_held_to_float(published, checkpoint, folder, tmp_path):
    plan = Plan(checkpoint=checkpoint, target=ONNX, head="mean", layout="tokens", precision="int8")
    model = int8_form(plan.network(), plan.provenance, plan.options).unrounded()
    metadata = load_artifact(published.path).metadata
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "float.onnx")
    assert verify(checkpoint, folder, tmp_path / "float.onnx").accuracy.agreement == 100
    tensor = next(t for t in model.graph.initializer if t.name == "head.bias")
    array = numpy_helper.to_array(tensor) + np.float32(1e-3)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "float.onnx")
    with pytest.raises(VerificationError, match=r"head\.bias is not the checkpoint's"):
        verify(checkpoint, folder, tmp_path / "float.onnx", max_drop=45)


@pytest.mark.usefixtures("published")
def test_a_layout_or_opset_that_is_none_of_ours_is_refused(
    checkpoint, folder, tmp_path, monkeypatch
):
    model = onnx.load(folder / "int8.onnx")
    next(p for p in model.metadata_props if p.key == "layout").value = "odd"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ArtifactError, match=r"layout 'odd'\. Expected one of tokens, spatial"):
        verify(checkpoint, folder, tmp_path / "odd.onnx", max_drop=45)
    monkeypatch.setattr(onnx_int8_check, "OPSETS", (17, 18))
    with pytest.raises(ArtifactError, match=r"opset 23\. Expected one of 17 to 18"):
        verify(checkpoint, folder, folder / "int8.onnx", max_drop=45)


def test_a_program_that_claims_int8_is_refused(checkpoint, tmp_path):
    pipeline.fuse(checkpoint, tmp_path / "fused.safetensors")
    fused = load_artifact(tmp_path / "fused.safetensors")
    claims = dataclasses.replace(fused, metadata={**fused.metadata, "precision": "int8"})
    with pytest.raises(ArtifactError, match="which no fused file of this tool does"):
        prove(checkpoint, claims)


@pytest.mark.parametrize("opset", [11, 12])
def test_opsets_without_a_scale_for_each_channel_are_refused(checkpoint, folder, tmp_path, opset):
    options = ExportOptions(opset=opset)
    with pytest.raises(UsageError, match=rf"--opset {opset} is not for int8.* from opset 13"):
        export(checkpoint, folder, tmp_path / "out.onnx", options=options)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"options": ExportOptions(opset=13, batch_size=3), "head": "distill"},
        {"options": ExportOptions(23, input_name="images", output_name="blocks.0.m.qkv.gemm")},
        {"layout": "spatial"},
    ],
)
def test_every_choice_goes_with_int8(checkpoint, folder, tmp_path, options):
    published = export(checkpoint, folder, tmp_path / "out.onnx", **options)
    assert published.verification.passed
    found = verify(checkpoint, folder, tmp_path / "out.onnx", max_drop=45)
    assert found.cases == published.verification.cases


@pytest.mark.slow
def test_the_same_pictures_give_the_same_bytes(published, checkpoint, folder, tmp_path):
    before = torch.get_num_threads()  # one, with which it was published
    torch.set_num_threads(2)
    export(checkpoint, folder, tmp_path / "again.onnx")
    torch.set_num_threads(before)
    assert (tmp_path / "again.onnx").read_bytes() == published.path.read_bytes()


def test_nothing_is_published_that_is_not_faster(checkpoint, folder, tmp_path, monkeypatch):
    from levit_deploy.timing import Ratio

    monkeypatch.setattr(quantize, "ratio", lambda *_: Ratio(0.98, 0.9, 1.1))
    with pytest.raises(VerificationError, match=r"int8 is not reliably faster .*: 0\.98 times"):
        export(checkpoint, folder, tmp_path / "out.onnx", int8={"even_if_slower": False})
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_read_ends_it_before_the_work(
    checkpoint, folder, tmp_path, monkeypatch
):
    shutil.copytree(folder, tmp_path / "pictures")
    last = max((tmp_path / "pictures").rglob("*.png"))
    last.write_bytes(last.read_bytes()[:100])
    monkeypatch.setattr(quantize, "quantized", pytest.fail)
    with pytest.raises(InputError, match=last.name):
        export(checkpoint, tmp_path / "pictures", tmp_path / "out.onnx")


def test_int8_asks_for_pictures(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="--images DIR"):
        pipeline.export(checkpoint, "onnx", tmp_path / "x.onnx", precision="int8")
    with pytest.raises(UsageError, match="not for --format torchscript"):
        pipeline.export(checkpoint, "torchscript", tmp_path / "x.pt", precision="int8")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"images": None}, "A NoneType was given for the pictures of int8"),
        ({"cpu": "arm"}, "--cpu 'arm'"),
        ({"max_drop": -1}, "--max-drop must be 0 to 100 points, not -1"),
        ({"max_drop": float("nan")}, "0 to 100 points, not nan"),
    ],
)
def test_choices_that_do_not_exist_are_refused_at_once(wrong, words):
    with pytest.raises(UsageError, match=words):
        Int8Options(**{"images": "pictures", **wrong})


def test_verify_refuses_a_drop_that_is_none(checkpoint, folder):
    with pytest.raises(UsageError, match="0 to 100 points, not 101"):
        verify(checkpoint, folder, "int8.onnx", max_drop=101)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "int8"], "Give --images DIR"),
        (["--precision", "w8a16"], "Give --images DIR"),
        (["--max-drop", "1"], "are for int8"),
        (["--cpu", "vnni"], "are for int8"),
        (["--confident"], "are for int8"),
        (["--even-if-slower"], "are for int8"),
    ],
)
def test_options_that_do_not_go_together_are_refused(folder, tmp_path, options, words):
    code, _, err = run("export", folder / "ckpt.pth", "-o", tmp_path / "x.onnx", *options)
    assert code == 2
    assert words in err


def test_w8a16_is_made_proven_and_verified_as_int8_is(checkpoint, folder, tmp_path):
    from rich.console import Console

    from levit_deploy.report import print_published, published_data

    choices = {"int8": {"even_if_slower": False}, "precision": "w8a16"}
    published = export(checkpoint, folder, tmp_path / "w8a16.onnx", **choices)
    how, proof = published.quantization, published.verification
    assert (published.layout, published.facts["opset"]) == ("spatial", 21)
    assert (how.cpu, how.speed, how.left_in_float) == (None, None, ())  # it is for other machines
    assert (proof.precision, proof.passed, proof.unrounded.passed) == ("w8a16", True, True)
    artifact = load_artifact(published.path)
    assert (artifact.metadata["precision"], artifact.batch_size) == ("w8a16", 1)
    assert artifact.metadata["accuracy"] == proof.accuracy.sentence
    assert verify(checkpoint, folder, published.path, max_drop=45).cases == proof.cases
    console = Console(width=200, record=True, file=io.StringIO())
    print_published(published_data(published, checkpoint), console)
    text = console.export_text()
    for words in ("onnx in onnxruntime, w8a16, spatial layout", "for NPUs", "w8a16 beside float32"):
        assert words in text
    assert "speed here" not in text
    with pytest.raises(UsageError, match="computes in w8a16"):
        pipeline.verify(checkpoint, published.path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"int8": {"cpu": "vnni"}}, "--cpu vnni is for int8 in ONNX"),
        ({"int8": {"even_if_slower": True}}, "w8a16 is for NPUs, and is not timed"),
        ({"options": ExportOptions(opset=20)}, "--opset 20 is not for w8a16.* from opset 21"),
        ({"options": ExportOptions(output="features")}, "w8a16 is judged by its answers"),
    ],
)
def test_what_w8a16_cannot_be_is_refused(checkpoint, folder, tmp_path, options, words):
    options = {"int8": {"even_if_slower": False}, "precision": "w8a16", **options}
    options["int8"] = {"even_if_slower": False, **options["int8"]}
    with pytest.raises(UsageError, match=words):
        export(checkpoint, folder, tmp_path / "x.onnx", **options)


@pytest.mark.slow
def test_the_command_line_does_it_too(folder, tmp_path):
    output, size = tmp_path / "x.onnx", ("--image-size", "32")
    pictures = ("--images", folder / "pictures", "--max-drop", "45")
    options = ("--precision", "int8", "--even-if-slower", *pictures, *size)
    code, out, _ = run("export", folder / "ckpt.pth", "-o", output, *options)
    assert code == 0
    assert "left in float: " in out
    code, out, _ = run("verify", folder / "ckpt.pth", output, *pictures, *size, "--json", "-")
    assert code == 0
    assert json.loads(out)["verification"]["accuracy"]["failures"] == []
    assert run("verify", folder / "ckpt.pth", output, *size)[0] == 2


@pytest.mark.slow
def test_verify_is_told_which_folder_is_which_class(published, folder, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class{i}" for i in reversed(range(CONFIG.num_classes))))
    pictures = ("--images", folder / "pictures", "--labels", labels, "--max-drop", "100")
    size = ("--image-size", "32", "--json", "-")
    code, out, err = run("verify", folder / "ckpt.pth", published.path, *pictures, *size)
    found = json.loads(out)["verification"]["accuracy"]
    assert found["float_top1"] is not None  # which takes labels, as one class has no folder
    assert found["understood"].endswith(
        "the classes 1 class5, 2 class4, 3 class3, 4 class2, 5 class1, 6 class0"
    )
    assert code == 1  # as any network may lose 100 points
    assert "that always answers the same. They were prepared as" in err


def test_the_report_says_what_each_block_costs(published):
    from rich.console import Console

    from levit_deploy.report import print_published, published_data, to_json

    how = dataclasses.replace(
        published.quantization, costs={"blocks.3.m": 0.031, "patch_embed.0": 0.002}
    )
    data = published_data(dataclasses.replace(published, quantization=how))
    json.loads(to_json(data))
    console = Console(width=120, record=True, file=io.StringIO())
    print_published(data, console)
    text = console.export_text()
    assert "blocks.3.m 3.10%, patch_embed.0 0.20%" in text
    left = ", ".join(published.quantization.left_in_float) or "nothing"
    text = " ".join(text.split())
    for words in ("int8, tokens", f"left in float: {left}", "before rounding", "lost"):
        assert words in text


@pytest.mark.slow
def test_int8_between_bytes_and_probabilities(checkpoint, folder, tmp_path):
    options = ExportOptions(input="uint8", output="probabilities")
    published = export(checkpoint, folder, tmp_path / "int8.onnx", options=options)
    found = published.verification
    assert found.interface == found.unrounded.interface == options.interface()
    assert [case.name for case in found.cases][-2:] == ["extreme", "pictures"]
    pixels = np.random.default_rng(0).integers(0, 256, (4, *CONFIG.image_size, 3), dtype=np.uint8)
    probabilities = load_artifact(published.path).run(pixels)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=0, atol=1e-6)
    assert verify(checkpoint, folder, published.path, max_drop=45.0).passed
    model = onnx.load(published.path)
    tensor = next(t for t in model.graph.initializer if t.name == "pixels.mean_quantized")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(VerificationError, match=r"pixels\.mean is not the checkpoint's"):
        verify(checkpoint, folder, tmp_path / "wrong.onnx")


@pytest.mark.slow
@pytest.mark.isolated  # OpenVINO crashes on the float network, which is tiny
def test_an_artifact_for_openvino_is_judged_and_proven_there(checkpoint, folder, tmp_path):
    published = export(checkpoint, folder, tmp_path / "ov.onnx", runtime="openvino")
    how, proof = published.quantization, published.verification
    assert (proof.runtime, proof.precision, proof.passed) == ("openvino", "int8", True)
    assert proof.accuracy == how.accuracy  # both are OpenVINO's
    artifact = load_artifact(published.path)
    assert (artifact.runtime, artifact.batch_size, published.layout) == ("openvino", 1, "tokens")
    assert verify(checkpoint, folder, published.path, max_drop=45).runtime == "openvino"
    elsewhere = verify(checkpoint, folder, published.path, max_drop=45, runtime="onnxruntime")
    assert (elsewhere.runtime, elsewhere.passed) == ("onnxruntime", True)
