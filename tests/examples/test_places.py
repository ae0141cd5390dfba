"""The file for each place, and the scripts that docs/runtimes.md names for it."""

import json
import re
import runpy

import numpy as np
import pytest
import torch
from example_scripts import EXAMPLES, NETWORKS, check_images, script
from networks import SHALLOW, trained
from PIL import Image

import levit_deploy
from levit_deploy.checkpoint import read_checkpoint

ROOT = EXAMPLES.parent
PLACES = runpy.run_path(str(EXAMPLES / "make_for.py"))["PLACES"]
MARKS = {"litert": ("litert", "ai_edge_litert"), "executorch": ("executorch", "executorch")}


def with_mark(place: str):
    mark, _ = MARKS.get(PLACES[place].format, ("", ""))
    return pytest.param(place, marks=[getattr(pytest.mark, mark)] if mark else [])


@pytest.mark.parametrize("place", [with_mark(place) for place in PLACES])
def test_a_place_gets_a_proven_file_and_what_an_app_must_know(tmp_path, monkeypatch, capsys, place):
    _, package = MARKS.get(PLACES[place].format, ("", "onnx"))
    pytest.importorskip(package, reason=f"{package} is not installed")
    labels = [f"kind {i}" for i in range(7)]
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    output = tmp_path / f"made{PLACES[place].suffix}"
    told = "crop 0.9, bilinear, mean 0.5, std 0.5"
    torch.save(trained(SHALLOW).state_dict(), tmp_path / "small.pth")
    arguments = [place, tmp_path / "small.pth", "-o", output, "--preprocessing", told]
    arguments += ["--labels", tmp_path / "labels.txt"]
    monkeypatch.setattr("sys.argv", ["make_for.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / "make_for.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert f"ship: {output} and {output}.json" in printed

    facts = json.loads((tmp_path / f"{output.name}.json").read_text())
    app = PLACES[place].options.input == "uint8"
    assert facts["shape"] == ([64, 96, 3] if app else [3, 64, 96])
    assert facts["labels"] == labels
    assert facts["preprocessing"]["crop_fraction"] == 0.9
    pixels = np.random.default_rng(3).integers(0, 256, (80, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (prediction,) = levit_deploy.predict(output, tmp_path / "a.png")
    assert {answer.label for answer in prediction.answers} < set(labels)

    monkeypatch.setattr("sys.argv", ["make_for.py", *map(str, arguments)])
    with pytest.raises(SystemExit, match=r"json exists\. Add --force"):
        runpy.run_path(str(EXAMPLES / "make_for.py"), run_name="__main__")


def test_the_guide_names_the_command_and_the_script_of_every_place():
    text = (ROOT / "docs" / "runtimes.md").read_text()
    guide = text.partition("## Which file for which place")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"`make_for\.py (\w+)`(.*)", guide))
    assert rows.keys() == PLACES.keys()
    for name, place in PLACES.items():
        assert place.script in rows[name]
        assert (EXAMPLES / place.script).exists()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_script_for_gpus_computes_the_original_s_logits_without_one(files, network):
    pytest.importorskip("onnxruntime")
    arguments = files / f"{network}.spatial", files / f"{network}.npy"
    check_images(script("run_onnxruntime_gpu.py", *arguments), files, network)


def test_it_says_that_there_is_no_gpu(files, capsys):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    runpy.run_path(str(EXAMPLES / "run_onnxruntime_gpu.py"))["load"](str(files / "small.spatial"))
    assert capsys.readouterr().err.startswith("CUDA is not in this onnxruntime, so the CPU")


@pytest.mark.study  # its numbers are computed on a Mac only
@pytest.mark.executorch  # which brings coremltools
def test_a_checkpoint_is_converted_to_core_ml(folder):
    coremltools = pytest.importorskip("coremltools", reason="coremltools is not installed")
    package = folder / "ckpt.mlpackage"
    arguments = (folder / "ckpt.pth", "-o", package)
    printed = script("to_coreml.py", *arguments, warnings="ignore")
    assert printed.startswith(f"{package}: converted")
    spec = coremltools.models.MLModel(str(package), skip_model_load=True).get_spec()
    (given,), (gives,) = spec.description.input, spec.description.output
    assert (given.name, list(given.type.multiArrayType.shape)) == ("pixel_values", [1, 3, 64, 96])
    assert gives.name == "logits"
    assert read_checkpoint(folder / "ckpt.pth").sha256 in spec.description.metadata.shortDescription
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    assert "batch_norm" not in {operation.type for operation in block.operations}  # all are fused
