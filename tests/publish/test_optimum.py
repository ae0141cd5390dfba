"""A folder that Optimum and transformers load: the artifact, and the checkpoint's own configs."""

import json
import shutil

import numpy as np
import pytest
import torch
from command_line import names_in, run
from networks import GOLDENS, golden, trained
from PIL import Image

import levit_deploy
from levit_deploy.errors import OutputError, UsageError
from levit_deploy.publish.optimum import NAMES, refuse_bad_hub_folder, staged_hub_folder
from levit_deploy.verification.budget import budget, rms

SOURCE = GOLDENS / "transformers"


def export(output, *options, source=SOURCE):
    """Export into a folder; the trailing slash is kept, as a shell would."""
    return run("export", source, "-o", f"{output}/", "-q", *options)


@pytest.mark.slow
def test_a_transformers_folder_becomes_one_with_the_artifact(tmp_path):
    output = tmp_path / "out"
    assert export(output) == (0, "", "")
    assert names_in(output) == ["config.json", "model.onnx", "preprocessor_config.json"]
    for name in ("config.json", "preprocessor_config.json"):
        assert (output / name).read_bytes() == (SOURCE / name).read_bytes()
    assert run("verify", SOURCE, output / "model.onnx", "-q")[0] == 0
    assert names_in(tmp_path) == ["out"]

    # again: only with --force, by name alone as it exists, and by the configs of today
    assert export(output)[0] == 5
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source)
    config = json.loads((source / "config.json").read_text()) | {"id2label": {"0": "sparrow"}}
    config["id2label"] |= {str(i): f"bird {i}" for i in range(1, 10)}
    (source / "config.json").write_text(json.dumps(config))
    nested = {"image_processor": json.loads((source / "preprocessor_config.json").read_text())}
    (source / "processor_config.json").write_text(json.dumps(nested))
    (source / "preprocessor_config.json").unlink()
    code, out, _ = run("export", source, "-o", output, "--force", "--json", "-")
    assert code == 0
    assert json.loads(out)["path"] == str(output / "model.onnx")
    assert names_in(output) == ["config.json", "model.onnx", "processor_config.json"]
    assert set(names_in(output)) < NAMES
    assert "sparrow" in (output / "config.json").read_text()
    assert names_in(tmp_path) == ["out", "source"]


@pytest.mark.slow
@pytest.mark.usefixtures("sabotaged_export")
def test_a_proof_that_fails_leaves_the_old_folder(tmp_path):
    (tmp_path / "out").mkdir()
    assert export(tmp_path / "out")[0] == 1
    assert names_in(tmp_path) == ["out"]
    assert names_in(tmp_path / "out") == []


def test_only_a_folder_with_our_artifact_and_nothing_else_is_ours(tmp_path):
    checkpoint, output = levit_deploy.load(SOURCE), tmp_path / "out"

    def publish(metadata):
        import onnx

        model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
        onnx.helper.set_model_props(model, metadata)
        with staged_hub_folder(output, checkpoint, force=True) as path:
            path.write_bytes(model.SerializeToString())

    publish({"tool": "levit-deploy 0.1.0"})
    refuse_bad_hub_folder(output, force=True)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="did not write"):
        refuse_bad_hub_folder(output, force=True)
    (output / "notes.txt").unlink()
    publish({"tool": "optimum"})
    with pytest.raises(OutputError, match="did not write"):
        refuse_bad_hub_folder(output, force=True)
    for broken in (b"no ONNX", b""):
        (output / "model.onnx").write_bytes(broken)
        with pytest.raises(OutputError, match="did not write"):
            refuse_bad_hub_folder(output, force=True)
    with pytest.raises(OutputError, match="did not write"):
        refuse_bad_hub_folder(SOURCE, force=True)


def test_configs_that_do_not_fit_are_refused(tmp_path):
    torch.save({"model": trained().state_dict()}, tmp_path / "ckpt.pth")
    (tmp_path / "weights").mkdir()
    shutil.copy(SOURCE / "model.safetensors", tmp_path / "weights")
    of_timm = shutil.copytree(GOLDENS / "timm", tmp_path / "timm")
    arguments = {"embed_dim": [16, 24, 32], "num_heads": [2, 3, 4], "depth": [1, 1, 1]}
    config = {"architecture": "levit_128s", "num_classes": 10, "model_args": arguments}
    (of_timm / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    for source, options, reason in (
        (tmp_path / "ckpt.pth", (), "ckpt.pth is in the layout of official"),
        (of_timm, (), "is in the layout of timm"),  # though it has a config.json
        (tmp_path / "weights", (), "model.safetensors was given without its config.json"),
        (SOURCE, ("--image-size", 64), "96x96"),
        (SOURCE, ("--format", "torchscript"), "--format onnx"),
    ):
        code, _, error = export(out, *options, source=source)
        assert code == 2
        assert reason in error
    code, _, error = export(tmp_path / "nowhere" / "out")
    assert code == 5
    assert "does not exist" in error
    (tmp_path / "empty").mkdir()
    code, _, error = export(tmp_path / "empty", "--json", tmp_path / "empty" / "config.json")
    assert code == 2
    assert "--json" in error
    assert names_in(tmp_path) == ["ckpt.pth", "empty", "timm", "weights"]
    assert names_in(tmp_path / "empty") == []


def test_what_the_configs_say_may_be_said_again_in_other_words(tmp_path):
    """One mean for all channels is the same mean for each."""
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source)
    processor = json.loads((source / "preprocessor_config.json").read_text())
    processor |= {"image_mean": [0.5] * 3}
    (source / "preprocessor_config.json").write_text(json.dumps(processor))
    said = levit_deploy.load(source, preprocessing="mean 0.5")
    with staged_hub_folder(tmp_path / "out", said, force=False) as temporary:
        temporary.write_bytes(b"an artifact")
    other = levit_deploy.load(source, preprocessing="mean 0.4")
    with pytest.raises(UsageError, match="contradict --preprocessing"):
        staged_hub_folder(tmp_path / "other", other, force=False).__enter__()


def test_what_is_said_otherwise_than_in_the_configs_is_refused(tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"bird {i}\n" for i in range(10)))
    for option, value, where in (
        ("--labels", tmp_path / "names.txt", r"id2label of config.json"),
        ("--preprocessing", "mean 0.5", "preprocessor_config.json"),
    ):
        code, _, error = export(tmp_path / "out", option, value)
        assert code == 2
        assert f"contradict {option}. Leave the option out and write it into {where}" in " ".join(
            error.split()
        )
    assert names_in(tmp_path) == ["names.txt"]


def test_what_the_configs_say_may_be_said_again(tmp_path):
    said = str(levit_deploy.load(SOURCE).preprocessing)
    checkpoint = levit_deploy.load(SOURCE, preprocessing=said)
    with staged_hub_folder(tmp_path / "out", checkpoint, force=False) as path:
        path.write_bytes(b"whatever")
    assert "model.onnx" in names_in(tmp_path / "out")


def test_pictures_of_another_size_are_refused(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source)
    path = source / "preprocessor_config.json"
    config = json.loads(path.read_text())
    del config["crop_size"]
    for sizes, side in (({}, 224), ({"crop_size": 64}, 64)):  # 224 where it is not said
        path.write_text(json.dumps(config | sizes))
        checkpoint = levit_deploy.load(source)
        expected = f"the config makes pictures of {side}x{side}, but the network takes "
        assert checkpoint.preprocessing.unsupported == expected + "96x96"
        assert not checkpoint.preprocessing.assumed
    assert levit_deploy.load(source, image_size=(64, 64)).preprocessing.unsupported == ""
    said = "crop 0.875 truncated, bicubic, mean 0.5, std 0.5"
    assert levit_deploy.load(source, preprocessing=said).preprocessing.unsupported == ""
    code, _, error = export(tmp_path / "out", source=source)
    assert code == 2
    assert "Correct crop_size in preprocessor_config.json" in " ".join(error.split())
    # at another size than the network was trained at, pictures are cropped in proportion
    trained_at = levit_deploy.load(SOURCE, image_size=(64, 64)).preprocessing
    assert trained_at == levit_deploy.load(SOURCE).preprocessing
    assert names_in(tmp_path) == ["source"]


def test_optimum_knows_no_other_names(tmp_path):
    for option in ("--input-name", "--output-name"):
        code, _, error = export(tmp_path / "out", option, "x")
        assert code == 2
        assert "Leave --input-name and --output-name out" in error
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("output", ["features", "feature-maps"])
def test_optimums_classifier_has_no_use_for_features(tmp_path, output):
    code, _, error = export(tmp_path / "out", "--output-type", output)
    assert code == 2
    assert f"expects logits, and --output-type {output} was given. Name a file with -o" in error


@pytest.mark.parametrize("ends", [("--input-type", "uint8"), ("--output-type", "probabilities")])
def test_ends_that_optimum_would_misread_are_refused(tmp_path, ends):
    code, _, error = export(tmp_path / "out", *ends)
    assert code == 2
    assert "Leave --input-type and --output-type out" in error
    assert names_in(tmp_path) == []


def test_the_configs_are_refused_from_python_as_well(tmp_path):
    checkpoint = levit_deploy.load(SOURCE)
    with pytest.raises(UsageError, match="--format onnx"):
        levit_deploy.export(checkpoint, "torchscript", f"{tmp_path}/out/")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Optimum and the transformers it needs, about themselves
def test_optimum_and_a_transformers_pipeline_load_it_as_their_own(tmp_path):
    reason = "Optimum is not installed: pip install 'optimum-onnx[onnxruntime]'"
    optimum = pytest.importorskip("optimum.onnxruntime", reason=reason)
    import transformers

    source, images, expected = golden("transformers")
    shutil.copytree(source, tmp_path / "source")
    source, output = tmp_path / "source", tmp_path / "out"
    side = {"height": 96, "width": 96}
    processor = transformers.LevitImageProcessor(size={"shortest_edge": 96}, crop_size=side)
    processor.save_pretrained(source)
    assert export(output, source=source)[0] == 0

    model = optimum.ORTModelForImageClassification.from_pretrained(output)
    logits = model(pixel_values=torch.from_numpy(images)).logits.numpy()
    original = levit_deploy.load(source).model
    with torch.inference_mode():
        allowed = budget([original(torch.from_numpy(images)).numpy()], expected)
    assert rms(logits - expected) <= allowed.rmse
    assert np.abs(logits - expected).max() <= allowed.max_error

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (130, 150, 3), np.uint8))
    theirs = transformers.LevitForImageClassificationWithTeacher.from_pretrained(source)
    answers = [
        transformers.pipeline(
            "image-classification",
            model=network,
            image_processor=transformers.AutoImageProcessor.from_pretrained(folder),
        )(picture, top_k=10)
        for network, folder in ((model, output), (theirs, source))
    ]
    scores = [{answer["label"]: answer["score"] for answer in found} for found in answers]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert max(scores[0].values()) - min(scores[0].values()) > 0.1  # or equal scores would do
