"""Every family's own files, saved by its own code, through every command."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from every_format import EVERY_FORMAT
from networks import GOLDENS, float64_logits, golden
from typer.testing import CliRunner

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.choices import LAYOUTS
from levit_deploy.cli import app
from levit_deploy.runtime.sessions import filled
from levit_deploy.targets.load import load_artifact
from levit_deploy.verification.prove import prove

FAMILIES = {
    "mmpretrain": "mmpretrain",
    "official": "official",
    "official-conv": "official",
    "official-training-run": "official",
    "timm": "timm",
    "timm-conv-silu": "timm",
    "timm-rectangular-64x96-single-head": "timm",
    "timm-stride8": "timm",
    "transformers": "transformers",
    "transformers-4.20.0": "transformers",
    "transformers-single-head": "transformers",
    "vit-pytorch": "vit-pytorch",
    "vit-pytorch-single-head": "vit-pytorch",
}
FEW_ULPS = 5e-6
# What neither the tensors nor a config of these files tell.
OPTIONS = {
    "timm-conv-silu": {"activation": "silu"},
    "timm-rectangular-64x96-single-head": {"image_size": (64, 96)},
}


# What releases of the libraries compute with a golden's tensors: its name, the options, the logits.
RELEASES = [
    (path.parent.name, {key: record[key] for key in record if key != "logits"}, record["logits"])
    for path in sorted(GOLDENS.glob("*/releases.json"))
    for record in json.loads(path.read_text())
]


def arguments(name):
    """The same options on the command line."""
    options = OPTIONS.get(name, {})
    flags = ["--activation", options["activation"]] if "activation" in options else []
    if "image_size" in options:
        flags += ["--image-size", "{}x{}".format(*options["image_size"])]
    return flags


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_there_is_a_golden_of_every_kind():
    assert {path.name for path in GOLDENS.iterdir()} == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_upstreams_in_float64(name):
    path, inputs, expected = golden(name)
    checkpoint = read_checkpoint(path, **OPTIONS.get(name, {}))
    actual = float64_logits(checkpoint.model, torch.from_numpy(inputs))
    assert np.abs(actual - expected).max() < 1e-10 * np.abs(expected).max()
    assert checkpoint.family == FAMILIES[name]


@pytest.mark.parametrize(("name", "options", "logits"), RELEASES)
def test_logits_are_those_of_the_release_trained_with(name, options, logits):
    path, inputs, _ = golden(name)
    checkpoint = read_checkpoint(path, **options)
    actual = float64_logits(checkpoint.model, torch.from_numpy(inputs))
    assert np.abs(actual - logits).max() < 1e-10 * np.abs(logits).max()


def test_four_functions_of_vit_pytorch_are_far_apart():
    functions = [
        np.array(logits)
        for _, options, logits in RELEASES
        if options["trained_with"].endswith(("==0.15.2", "==0.18.2", "==0.18.3", "==0.20.5"))
    ]
    assert len(functions) == 4
    for one, other in itertools.combinations(functions, 2):
        assert np.abs(one - other).max() > 0.01 * np.abs(one).max()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_data_sheet_says_what_upstream_built(name):
    path, _, _ = golden(name)
    meta = json.loads((GOLDENS / name / "meta.json").read_text())
    sheet = json.loads(run("inspect", path, *arguments(name), "--json", "-"))
    assert sheet["config"]["image_size"] == meta["image_size"]
    assert sheet["config"]["in_channels"] == meta["in_channels"]
    assert sheet["config"]["num_classes"] == meta["num_classes"]
    assert sheet["config"]["distillation"] == meta["distillation"]
    assert sheet["parameters"] == meta["parameters"]
    if "activation" in meta:
        assert sheet["config"]["activation"] == meta["activation"]


def test_three_families_hold_the_same_network():
    configs = [read_checkpoint(golden(name)[0]).config for name in ("official", "timm")]
    configs.append(read_checkpoint(golden("transformers")[0]).config)
    assert configs[0] == configs[1] == configs[2]


def computes(artifact, inputs, logits):
    opened = load_artifact(artifact)
    found = filled(opened.run, opened.batch_size)(inputs)
    np.testing.assert_allclose(found, logits, rtol=0, atol=FEW_ULPS * np.abs(logits).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_network_is_fused_and_exported_with_proof(name, tmp_path):
    path, inputs, logits = golden(name)
    checkpoint = read_checkpoint(path, **OPTIONS.get(name, {}))
    fused = pipeline.fuse(checkpoint, tmp_path / "fused.safetensors").path
    computes(fused, inputs, logits)
    output = tmp_path / "fused.onnx"
    pipeline.export(read_checkpoint(fused), "onnx", output)
    computes(output, inputs, logits)
    if name == "official":  # what was made from the fused file is held to the original, too
        assert pipeline.verify(checkpoint, output).passed


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_every_target_computes_upstreams_logits(tmp_path, format, layout):
    path, inputs, logits = golden("official")
    output = tmp_path / "artifact"
    if layout == "spatial" and format == "litert":
        layout = "auto"  # channels last, the two are one
    published = pipeline.export(read_checkpoint(path), format, output, layout=layout)
    assert layout in ("auto", published.layout)
    computes(output, inputs, logits)


REDUCED = [("official", "onnx", "fp16"), ("official", "torchscript", "bf16")]
# vit-pytorch has BatchNorm elsewhere
REDUCED += [pytest.param("vit-pytorch", *form[1:], marks=pytest.mark.study) for form in REDUCED]


@pytest.mark.parametrize(("name", "format", "precision"), REDUCED)
def test_reduced_precision_errs_as_it_may(tmp_path, name, format, precision):
    path, inputs, logits = golden(name)
    checkpoint, output = read_checkpoint(path), tmp_path / "artifact"
    published = pipeline.export(checkpoint, format, output, precision=precision)
    assert published.verification.precision == precision
    artifact = load_artifact(output)
    assert artifact.metadata["precision"] == precision
    assert pipeline.verify(checkpoint, output).precision == precision
    error = np.abs(artifact.run(inputs) - logits).max()
    assert 1e-5 * np.abs(logits).max() < error < 0.1 * np.abs(logits).max()
    # rounded once more than it says, it is no float32 artifact
    as_float32 = replace(artifact, metadata={"precision": "fp32"})
    assert not prove(checkpoint, as_float32).passed


COMMANDS_STUDIED = [
    "official",
    *(
        pytest.param(name, marks=pytest.mark.study)
        for name in ("timm", "transformers", "vit-pytorch")
    ),
]


@pytest.mark.parametrize("name", COMMANDS_STUDIED)
def test_every_command_takes_it_and_proves_what_it_writes(name, tmp_path):
    path, _, _ = golden(name)
    options = arguments(name)
    assert FAMILIES[name] in run("inspect", path, *options)
    artifacts = [tmp_path / "fused.safetensors"]
    assert "proven" in run("fuse", path, *options, "-o", artifacts[0])
    layouts = {"onnx": LAYOUTS, "torchscript": ("tokens",)}
    for format in layouts:
        for layout in layouts[format]:
            artifact = tmp_path / f"{layout}.{format}"
            words = ["--format", format, "--layout", layout, "-o", artifact]
            assert "proven" in run("export", path, *options, *words)
            artifacts.append(artifact)
    for artifact in artifacts[::2]:
        words = run("verify", path, *options, artifact)
        # six kinds, or seven if ordinary images hide something, together, all
        assert words.count("proven") == 8 + words.count("telling")
    assert "proven" in run("export", artifacts[0], "-o", tmp_path / "from-fused.onnx")
