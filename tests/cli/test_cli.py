"""The command line as its user meets it: output, exit codes, and what is left on disk."""

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import COMMANDS, names_in, run
from networks import GOLDENS, SMALL, trained
from PIL import Image
from safetensors.torch import save_file

from levit_deploy import report, text
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.cli.options import SUFFIXES
from levit_deploy.runtime.artifact import load_artifact
from levit_deploy.targets import plain as forms
from levit_deploy.targets.target import EXPORTERS
from levit_deploy.verification import prove as proving


@pytest.fixture
def folder(tmp_path):
    torch.save({"model": trained().state_dict()}, tmp_path / "ckpt.pth")
    return tmp_path


# --- what works -----------------------------------------------------------------------------------


def test_inspect_reads_like_a_data_sheet(folder):
    code, out, _ = run("inspect", folder / "ckpt.pth")
    assert code == 0
    for fact in ("official", "custom", "3 x 64 x 96", "7", "2 (class and distillation)", "assumed"):
        assert fact in out
    assert "stage 3" in out
    assert "12 > 16" in out
    assert "crop 0.875, bicubic, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, assumed" in out


def test_inspect_as_json(folder):
    code, out, _ = run("inspect", folder / "ckpt.pth", "--json", "-")
    data = json.loads(out)
    assert code == 0
    assert data["family"] == "official"
    assert data["config"]["stages"][1]["num_heads"] == 2
    assert data["resolutions"] == [[4, 6], [2, 3], [1, 2]]
    assert data["parameters"] == sum(p.numel() for p in trained().parameters())
    assert len(data["sha256"]) == 64
    assert any("eps" in assumption for assumption in data["assumed"])


@pytest.mark.slow
def test_outputs_go_beside_the_checkpoint_by_default(folder):
    assert run("fuse", folder / "ckpt.pth")[0] == 0
    assert run("export", folder / "ckpt.pth")[0] == 0
    assert run("export", folder / "ckpt.pth", "--format", "torchscript")[0] == 0
    assert names_in(folder) == [
        "ckpt.fused.safetensors",
        "ckpt.onnx",
        "ckpt.pth",
        "ckpt.torchscript.pt",
    ]


def test_the_report_of_an_export_as_json(folder):
    code, out, _ = run(
        "export", folder / "ckpt.pth", "--layout", "tokens", "--opset", "23", "--json", "-"
    )
    data = json.loads(out)
    assert code == 0
    assert data["layout"] == "tokens"
    assert data["facts"]["opset"] == 23
    assert data["verification"]["passed"] is True
    assert data["size_bytes"] == (folder / "ckpt.onnx").stat().st_size


def test_the_precision_is_printed_and_reported(folder):
    path = folder / "ckpt.pth"
    code, out, _ = run("export", path, "--precision", "fp16", "--json", folder / "report.json")
    assert code == 0
    assert "ckpt.onnx: onnx, fp16, spatial layout" in out
    report = json.loads((folder / "report.json").read_text())
    assert report["verification"]["precision"] == "fp16"
    code, out, _ = run("verify", path, folder / "ckpt.onnx")
    assert code == 0
    assert "ckpt.onnx: onnx, fp16, held to the mean head" in out


@pytest.mark.parametrize(
    ("format", "precision"), [("torchscript", "fp16"), ("onnx", "bf16"), ("onnx", "fp8")]
)
def test_a_precision_that_makes_no_sense_is_a_usage_error(folder, format, precision):
    arguments = ("--format", format, "--precision", precision)
    code, _, err = run("export", folder / "ckpt.pth", *arguments)
    assert code == 2
    assert "precision" in err
    assert names_in(folder) == ["ckpt.pth"]


def test_the_evidence_as_json_is_whole(folder):
    path, artifact = folder / "ckpt.pth", folder / "ckpt.onnx"
    _, out, _ = run("export", path, "--json", "-")
    exported = json.loads(out)["verification"]
    code, out, _ = run("verify", path, artifact, "--json", "-")
    verified = json.loads(out)["verification"]
    assert code == 0
    for evidence in (exported, verified):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert evidence["checkpoint"] == {"path": str(path), "sha256": sha256}
        assert evidence["sha256"] == hashlib.sha256(artifact.read_bytes()).hexdigest()
        assert evidence["seed"] == 0
        assert evidence["versions"]["torch"] == importlib.metadata.version("torch")
        assert evidence["versions"].keys() >= {"levit-deploy", "python", "onnxruntime", "machine"}
        for case in evidence["cases"]:
            figures = [case["rmse"], case["max_error"], *case["budget"].values()]
            assert all(isinstance(figure, float) for figure in figures)
    assert exported == verified  # the same bytes, the same seed: the same figures
    _, out, _ = run("verify", path, artifact, "--activation", "silu", "--json", "-")
    assert json.loads(out)["verification"]["checkpoint"]["path"] == str(path)


def test_json_into_a_file_beside_the_table(folder):
    code, out, _ = run("inspect", folder / "ckpt.pth", "--json", folder / "report.json")
    assert code == 0
    assert "family" in out
    assert json.loads((folder / "report.json").read_text())["variant"] == "custom"


def test_quiet_prints_nothing(folder):
    assert run("export", folder / "ckpt.pth", "-q") == (0, "", "")


@pytest.mark.slow
def test_the_weights_of_a_training_run_are_chosen(folder):
    path = folder / "run.pth"
    torch.save({"model": trained().state_dict(), "model_ema": trained(seed=9).state_dict()}, path)
    code, _, err = run("inspect", path)
    assert code == 3
    assert "--weights" in err
    assert run("export", path, "--weights", "ema", "-o", folder / "ema.onnx")[0] == 0
    assert run("verify", path, folder / "ema.onnx", "--weights", "ema")[0] == 0
    assert run("verify", path, folder / "ema.onnx", "--weights", "model")[0] == 1


@pytest.mark.slow
def test_an_activation_the_file_does_not_tell(folder):
    path = folder / "ckpt.pth"
    assert run("export", path, "--activation", "silu", "-o", folder / "silu.onnx")[0] == 0
    assert run("verify", path, folder / "silu.onnx", "--activation", "silu")[0] == 0
    assert run("verify", path, folder / "silu.onnx")[0] == 1


def test_a_fixed_batch(folder):
    assert run("export", folder / "ckpt.pth", "--batch-size", "4")[0] == 0
    assert run("verify", folder / "ckpt.pth", folder / "ckpt.onnx")[0] == 0


@pytest.fixture
def hub(tmp_path):
    """A folder as transformers saves it, in a folder of its own."""
    folder = tmp_path / "levit.v1"
    shutil.copytree(GOLDENS / "transformers", folder)
    return folder


@pytest.mark.slow
def test_the_artifacts_of_a_folder_go_beside_it(hub):
    before = names_in(hub)
    assert run("export", hub)[0] == 0
    assert run("fuse", f"{hub}/")[0] == 0
    assert names_in(hub.parent) == ["levit.v1", "levit.v1.fused.safetensors", "levit.v1.onnx"]
    assert names_in(hub) == before
    assert run("verify", hub, hub.parent / "levit.v1.onnx")[0] == 0


def test_the_folder_one_stands_in_is_a_checkpoint_too(hub, monkeypatch):
    monkeypatch.chdir(hub)
    assert run("export", ".")[0] == 0
    assert names_in(hub.parent) == ["levit.v1", "levit.v1.onnx"]


def test_no_file_of_a_folder_is_overwritten(hub):
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        before = (hub / name).read_bytes()
        code, _, err = run("export", hub, "-o", hub / name, "--force")
        assert code == 5
        assert "own files" in err
        assert (hub / name).read_bytes() == before
    code, _, err = run("inspect", hub, "--json", hub / "config.json", "--force")
    assert code == 5
    assert "own files" in err


@pytest.mark.slow
def test_another_image_size_goes_through_every_command(folder):
    path, artifact = folder / "ckpt.pth", folder / "large.onnx"
    size = ("--image-size", "96x128")
    code, out, _ = run("inspect", path, *size)
    assert code == 0
    assert "3 x 96 x 128" in out
    code, out, _ = run("export", path, *size, "-o", artifact)
    assert code == 0
    assert "interpolated attention biases: re-measure the accuracy" in out
    code, out, _ = run("verify", path, artifact, *size)
    assert code == 0
    code, _, err = run("verify", path, artifact)
    assert code == 1
    assert "(3, 96, 128)" in err
    code, out, _ = run("fuse", path, *size, "-o", folder / "large.safetensors")
    assert code == 0
    code, out, _ = run("export", folder / "large.safetensors", "-o", folder / "again.onnx")
    assert code == 0
    assert "re-measure the accuracy" in out


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "holiday"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (70, 90)), ("b.png", (200, 101)), ("c.webp", (64, 64))):
        colours = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        colours.resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder.parent


@pytest.mark.parametrize("command", ["export", "fuse"])
def test_a_proof_on_pictures(folder, photos, command):
    path, artifact = folder / "ckpt.pth", folder / "artifact"
    code, out, _ = run(command, path, "-o", artifact, "--images", photos)
    assert code == 0
    assert "pictures   3  " in out
    words = "pictures are prepared as for ImageNet: crop 0.875, bicubic, mean 0.485 0.456 0.406"
    assert f"assumed: {words}" in " ".join(out.split())
    proven_on_them = artifact.read_bytes()
    assert run(command, path, "-o", artifact, "--force")[0] == 0
    assert artifact.read_bytes() == proven_on_them


def test_verify_takes_pictures_too(folder, photos):
    path, artifact = folder / "ckpt.pth", folder / "ckpt.onnx"
    torch.save({"model": trained(seed=3).state_dict()}, folder / "other.pth")
    assert run("export", path)[0] == 0
    code, out, _ = run("verify", path, artifact, "--images", photos, "--json", "-")
    case = json.loads(out)["verification"]["cases"][-1]
    assert code == 0
    assert (case["name"], case["images"], case["failures"]) == ("pictures", 3, [])
    code, out, err = run("verify", folder / "other.pth", artifact, "--images", photos)
    assert code == 1
    assert "on pictures: RMSE" in err


@pytest.mark.parametrize("name", ["pics/odd.png", "pics/deep/ODD.PNG", "pics/../pics/odd.png"])
def test_no_picture_is_overwritten(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    (folder / "pics" / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / name)
    before = (folder / name).read_bytes()
    for command in (
        ("verify", "ckpt.pth", "ckpt.pth", "--json", name),
        ("fuse", "ckpt.pth", "-o", name),
        ("export", "ckpt.pth", "-o", name),
        ("export", "ckpt.pth", "--json", name),
    ):
        code, _, err = run(*command, "--images", "pics", "--force")
        assert (code, (folder / name).read_bytes()) == (5, before)
        assert "own files" in err
    assert names_in(folder) == ["ckpt.pth", "pics"]


def test_what_is_no_picture_may_be_written_among_them(folder, photos):
    written = photos / "report.json"
    for _ in range(2):  # the second time it exists
        command = ("fuse", folder / "ckpt.pth", "--images", photos, "--json", written, "--force")
        assert run(*command)[0] == 0
    assert json.loads(written.read_text())["verification"]["passed"] is True


@pytest.mark.slow
def test_what_a_folder_says_of_its_logits_is_told_and_keeps_them_from_being_answers(hub, photos):
    assert "problem type" not in run("inspect", hub)[1]
    path = hub / "config.json"
    stated = {"problem_type": "multi_label_classification"}
    path.write_text(json.dumps(json.loads(path.read_text()) | stated))
    assert "problem type multi_label_classification" in " ".join(run("inspect", hub)[1].split())
    code, _, err = run("export", hub, "--output-type", "probabilities")
    assert code == 2
    assert "a problem_type of multi_label_classification" in " ".join(err.split())
    assert run("export", hub, "-q")[0] == 0
    for command in ("predict", "evaluate"):
        code, out, err = run(command, hub.parent / "levit.v1.onnx", photos)
        assert (code, out) == (3, "")
        assert "has no most probable class" in err


def test_what_a_folder_says_of_pictures_is_kept_by_fuse(hub, photos):
    path = hub / "preprocessor_config.json"
    processor = json.loads(path.read_text())
    path.write_text(json.dumps(processor | {"image_mean": [0.5, 0.4, 0.3], "resample": 2}))
    code, out, _ = run("fuse", hub, "--images", photos)
    assert code == 0
    assert "pictures   3  " in out
    assert "assumed: pictures" not in out
    stated = read_checkpoint(hub).preprocessing
    assert (stated.mean, stated.interpolation) == ((0.5, 0.4, 0.3), "bilinear")
    assert read_checkpoint(hub.parent / "levit.v1.fused.safetensors").preprocessing == stated


def test_what_a_folder_says_of_pictures_and_is_not_done_matters_only_with_pictures(hub, photos):
    path = hub / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_center_crop": False}))
    code, _, err = run("fuse", hub, "--images", photos)
    assert code == 2
    assert "do_center_crop" in err
    assert run("fuse", hub)[0] == 0


def test_the_data_sheet_of_another_implementation():
    _, out, _ = run("inspect", GOLDENS / "vit-pytorch" / "checkpoint.pth")
    words = " ".join(out.split())
    assert "activation hardswish" in words
    assert "activation, stem none" in words
    assert "activation, attention gelu" in words
    assert "normalisation BatchNorm in attention only" in words
    assert "the mean of both heads" in words


def test_version_and_help():
    assert run("--version")[1].startswith("levit-deploy ")
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: levit-deploy {command}" in out


# --- what is refused ------------------------------------------------------------------------------


def broken(folder, change):
    state = trained().state_dict()
    change(state)
    torch.save({"model": state}, folder / "broken.pth")
    return folder / "broken.pth"


def other_network(folder):
    save_file({"conv1.weight": torch.ones(4, 3, 7, 7), "fc.bias": torch.ones(9)}, folder / "r.sft")
    return folder / "r.sft"


def text_file(folder):
    (folder / "notes.pth").write_text("no weights here")
    return folder / "notes.pth"


ONE = torch.ones(1)
TIMM = {"stem.conv1.linear.weight": ONE}

REFUSED = {
    "missing file": (lambda folder: folder / "nowhere.pth", "cannot be read"),
    "a folder of neither library": (lambda folder: folder, "neither model.safetensors nor"),
    "names of two families": (
        lambda folder: broken(folder, lambda state: state.update(TIMM)),
        "the names of official and timm at once",
    ),
    "a name twice": (
        lambda folder: broken(folder, lambda state: state.update({"module.head.bn.bias": ONE})),
        "holds head.bn.bias twice",
    ),
    "not a checkpoint": (text_file, "not a checkpoint"),
    "another network": (other_network, "conv1.weight"),
    "a missing key": (
        lambda folder: broken(folder, lambda state: state.pop("blocks.0.m.qkv.bn.weight")),
        "missing blocks.0.m.qkv.bn.weight",
    ),
    "a surplus key": (
        lambda folder: broken(folder, lambda state: state.update(extra=torch.ones(1))),
        "surplus extra",
    ),
    "a wrong shape": (
        lambda folder: broken(folder, lambda state: state.update({"head.bn.bias": torch.ones(5)})),
        "head.bn.bias (5 instead of 18)",
    ),
    "NaN weights": (
        lambda folder: broken(folder, lambda state: state["head.l.weight"].fill_(torch.nan)),
        "head.l.weight holds NaN",
    ),
    "a negative variance": (
        lambda folder: broken(folder, lambda state: state["head.bn.running_var"].fill_(-1)),
        "head.bn.running_var",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("command", ["fuse", "export"])
def test_bad_checkpoints_are_refused_in_one_paragraph(folder, case, command):
    make, expected = REFUSED[case]
    path = make(folder)
    before = names_in(folder)
    code, out, err = run(command, path, "-o", folder / "output")
    assert code == 3
    assert out == ""
    assert expected in err
    assert err.startswith("levit-deploy: ")
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert names_in(folder) == before


def test_names_in_a_file_do_nothing_to_the_terminal(folder):
    forged = "patch\x1b[2Jx\n\nlevit-deploy: all is well\u202e"
    path = broken(folder, lambda state: state.update({forged: ONE}))
    code, _, err = run("inspect", path)
    assert code == 3
    assert r"patch\x1b[2Jx\n\nlevit-deploy: all is well\u202e" in err
    assert len(err.strip().splitlines()) == 1


def test_code_in_a_checkpoint_is_refused_as_unsafe(folder):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {folder}/fired",)

    torch.save({"model": Payload()}, folder / "evil.pth")
    code, _, err = run("inspect", folder / "evil.pth")
    assert code == 4
    assert "system" in err
    assert "fired" not in names_in(folder)


def test_bad_destinations_are_refused(folder):
    (folder / "old.onnx").write_bytes(b"old")
    path = folder / "ckpt.pth"
    for output, expected in (
        (folder / "no" / "folder" / "out.onnx", "does not exist"),
        (folder / "old.onnx", "--force"),
        (folder, "is a folder"),
        (path, "own files"),
    ):
        code, _, err = run("export", path, "-o", output)
        assert code == 5
        assert expected in err
    assert (folder / "old.onnx").read_bytes() == b"old"
    assert names_in(folder) == ["ckpt.pth", "old.onnx"]
    assert run("export", path, "-o", folder / "old.onnx", "--force")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--format", "tflite"),
        ("--opset", "16"),
        ("--opset", "24"),
        ("--batch-size", "0"),
        ("--batch-size", "many"),
        ("--image-size", "12y"),
        ("--image-size", "9" * 5000),
        ("--head", "both"),
        ("--weights", "ema"),
        ("--format", "torchscript", "--batch-size", "2"),
    ],
)
def test_options_that_make_no_sense_exit_with_2(folder, arguments):
    code, _, err = run("export", folder / "ckpt.pth", *arguments)
    assert code == 2
    assert arguments[-2] in err  # the message names the option
    assert names_in(folder) == ["ckpt.pth"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere", "Expected an existing folder"),
        ("ckpt.pth", "ckpt.pth is a file. Expected a folder"),
        ("empty", "has no pictures in it"),
        ("broken", "a.jpg cannot be read as a picture"),
    ],
)
def test_a_folder_without_whole_pictures_is_refused(folder, name, expected):
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.jpg").write_text("no picture")
    path, artifact = folder / "ckpt.pth", folder / "ckpt.pth"
    for command in (("export", path), ("fuse", path), ("verify", path, artifact)):
        code, out, err = run(*command, "--images", folder / name)
        assert (code, out) == (3, "")
        assert expected in err
        assert len(err.strip().splitlines()) == 1
    assert names_in(folder) == ["broken", "ckpt.pth", "empty"]


def test_a_network_of_two_channels_takes_no_pictures(folder, photos):
    path = folder / "two.pth"
    torch.save({"model": trained(SMALL.replace(in_channels=2)).state_dict()}, path)
    code, _, err = run("export", path, "--images", photos)
    assert code == 2
    assert "2 channels" in err


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--images", "nowhere"], 3), (["--images", ".", "--json", "a.png", "--force"], 5)],
)
def test_paths_are_refused_before_torch_is_imported(folder, monkeypatch, options, code):
    monkeypatch.chdir(folder)
    (folder / "a.png").touch()
    script = (
        "import sys; from typer.testing import CliRunner; from levit_deploy.cli import app;"
        f"assert CliRunner().invoke(app, ['export', 'ckpt.pth', *{options}]).exit_code == {code};"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_a_failed_proof_exits_with_1_and_says_by_how_much(folder):
    torch.save({"model": trained(seed=3).state_dict()}, folder / "other.pth")
    run("export", folder / "ckpt.pth")
    code, out, err = run("verify", folder / "other.pth", folder / "ckpt.onnx")
    assert code == 1
    assert out.count("FAILED") == 6
    assert "On normal: RMSE" in err
    code, out, _ = run("verify", folder / "other.pth", folder / "ckpt.onnx", "--json", "-")
    assert code == 1
    assert json.loads(out)["verification"]["passed"] is False


def test_a_bad_artifact_is_refused(folder):
    (folder / "no.onnx").write_bytes(b"no graph")
    code, _, err = run("verify", folder / "ckpt.pth", folder / "no.onnx")
    assert code == 3
    assert "no.onnx" in err


def test_a_bug_of_ours_exits_with_70_and_hides_its_traceback(folder, monkeypatch):
    def bug(*_args, **_kwargs):
        raise ZeroDivisionError("oh no")

    monkeypatch.setattr(forms, "to_plain", bug)
    code, _, err = run("export", folder / "ckpt.pth")
    assert code == 70
    assert "ZeroDivisionError: oh no" in err
    assert "Traceback" not in err
    assert names_in(folder) == ["ckpt.pth"]
    assert "Traceback" in run("export", folder / "ckpt.pth", "-v")[2]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), 6)])
def test_interruption_and_exhaustion_have_their_codes(folder, monkeypatch, error, code):
    def stop(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(proving, "measure", stop)
    assert run("export", folder / "ckpt.pth")[0] == code
    assert names_in(folder) == ["ckpt.pth"]


def test_the_installed_command_and_the_module_are_the_same(folder):
    installed = str(Path(sys.executable).with_name("levit-deploy"))
    for command in ([installed], [sys.executable, "-m", "levit_deploy"]):
        done = subprocess.run(
            [*command, "inspect", folder / "nowhere.pth"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 3
        assert "nowhere.pth cannot be read: No such file" in done.stderr


def test_help_does_not_wait_for_torch():
    script = (
        "import sys; from typer.testing import CliRunner; from levit_deploy.cli import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_default_suffixes_are_the_exporters():
    assert {name: exporter.suffix for name, exporter in EXPORTERS.items()} == SUFFIXES


@pytest.mark.slow
def test_what_was_assumed_is_said_at_every_export_and_kept_by_fuse(folder):
    for command in ("export", "fuse"):
        code, out, _ = run(command, folder / "ckpt.pth")
        assert code == 0
        assert "assumed: activation hardswish" in out
    _, out, _ = run("export", folder / "ckpt.fused.safetensors", "--json", "-", "-o", folder / "f")
    assert any("hardswish" in assumption for assumption in json.loads(out)["assumed"])


@pytest.mark.slow
def test_the_head_survives_fuse(folder):
    path, fused = folder / "ckpt.pth", folder / "class.safetensors"
    run("fuse", path, "--head", "class", "-o", fused)
    assert "held to the class head" in run("verify", path, fused)[1]
    run("export", fused, "-o", folder / "a.onnx")
    run("export", path, "--head", "class", "-o", folder / "b.onnx")
    run("export", path, "-o", folder / "mean.onnx")
    for checkpoint, artifact in ((path, "a.onnx"), (fused, "b.onnx")):
        code, out, _ = run("verify", checkpoint, folder / artifact)
        assert code == 0
        assert "held to the class head" in out
    code, _, err = run("verify", fused, folder / "mean.onnx")
    assert code == 3
    assert "'mean'" in err


def test_a_report_never_overwrites(folder):
    run("export", folder / "ckpt.pth")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for arguments in (
        ("inspect", folder / "ckpt.pth", "--json", folder / "ckpt.pth"),
        ("verify", folder / "ckpt.pth", folder / "ckpt.onnx", "--json", folder / "ckpt.onnx"),
        ("export", folder / "ckpt.pth", "-o", folder / "b", "--json", folder / "b"),
        ("fuse", folder / "ckpt.pth", "--json", folder / "no" / "folder.json"),
    ):
        code, _, err = run(*arguments)
        assert (code, "--json" in err or arguments[0] == "export") == (5, True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_failed_export_shows_its_figures(folder, monkeypatch):
    plain = forms.to_plain
    monkeypatch.setattr(forms, "to_plain", lambda model, _head: plain(model, "class"))
    code, out, err = run("export", folder / "ckpt.pth")
    assert code == 1
    assert out.count("FAILED") == 6
    assert "On normal" in err
    assert names_in(folder) == ["ckpt.pth"]


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that is full once there is a report to write."""

    def write(_data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(report, "to_json", write)


@pytest.mark.usefixtures("full_disk")
def test_what_was_done_is_said_where_its_report_cannot_be_written(folder):
    path, artifact, evidence = folder / "ckpt.pth", folder / "a.onnx", folder / "e.json"
    code, _, err = run("export", path, "-o", artifact, "--json", evidence)
    assert code == 5
    assert f"{artifact} was published and is proven, but" in err
    assert f"{evidence} could not be written: No space left on device" in err
    assert "another place with --json" in err
    assert names_in(folder) == ["a.onnx", "ckpt.pth"]
    code, _, err = run("verify", path, artifact, "--json", evidence)
    assert code == 5
    assert f"{artifact} is proven, but" in err


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("report_to", [("--json", "e.json"), ("--json", "-"), ()])
def test_a_failed_proof_is_said_even_where_its_report_cannot_be_written(
    folder, monkeypatch, report_to
):
    monkeypatch.chdir(folder)
    torch.save({"model": trained(seed=3).state_dict()}, "other.pth")
    run("export", "ckpt.pth")
    monkeypatch.setattr(report, "print_verified", lambda *_: report.to_json(None))
    monkeypatch.setattr(text, "_write_no_more", lambda: None)  # the tests go on writing
    code, _, err = run("verify", "other.pth", "ckpt.onnx", *report_to)
    assert code == 1
    assert "does not compute what the checkpoint computes" in err
    assert "could not be written: No space left on device" in err
    assert "proven" not in err


def test_a_report_that_appears_meanwhile_is_kept(folder, monkeypatch):
    path, evidence = folder / "ckpt.pth", folder / "e.json"
    to_json = report.to_json

    def meanwhile(data):
        evidence.write_text("theirs")
        return to_json(data)

    monkeypatch.setattr(report, "to_json", meanwhile)
    code, _, err = run("inspect", path, "--json", evidence)
    assert code == 5
    assert "Add --force to replace it, or name another file with --json" in err
    assert evidence.read_text() == "theirs"
    assert run("inspect", path, "--json", evidence, "--force")[0] == 0
    assert json.loads(evidence.read_text())["family"] == "official"


def test_demo_does_not_overwrite_what_is_not_its_own(tmp_path):
    (tmp_path / "digits.pth").write_text("mine")
    code, _, err = run("demo", tmp_path)
    assert code == 5
    assert "--force" in err
    assert (tmp_path / "digits.pth").read_text() == "mine"


def command_line(*arguments):
    return [sys.executable, "-m", "levit_deploy", *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("report_to", [(), ("--json", "-")])
def test_output_that_cannot_be_written_is_exit_5(folder, report_to):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command_line("fuse", folder / "ckpt.pth", *report_to),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 5
    assert "ckpt.fused.safetensors was published and is proven, but" in done.stderr
    assert "Standard output could not be written: No space left on device" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_standard_output_that_is_closed_is_exit_5(folder):
    closed = ["sh", "-c", 'exec "$@" >&-', "sh"]
    command = [*closed, *command_line("inspect", folder / "ckpt.pth")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "Standard output is closed" in done.stderr
    assert subprocess.run([*command, "-q"]).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_exit_code_does_not_wait_for_its_message(folder):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command_line("inspect", folder / "nowhere.pth"), stderr=full)
    assert done.returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_with_130_and_leaves_nothing(folder, number):
    command = command_line("export", folder / "ckpt.pth")
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # what runs in the background, as a CI may run the tests, ignores interrupts
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        while not any(name.endswith(".tmp") for name in names_in(folder)):
            assert process.poll() is None, "it ended before it could be interrupted"
            time.sleep(0.005)
        process.send_signal(number)
        err = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in err
    assert names_in(folder) == ["ckpt.pth"]


def test_a_signal_that_is_ignored_stays_so():
    script = (
        "import os, signal; from levit_deploy.cli.exits import reports_errors;"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "reports_errors(lambda: os.kill(os.getpid(), signal.SIGHUP))(); print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "went on\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_disturb_the_tidying_up(number):
    script = (
        "import os, signal; from levit_deploy.cli.exits import reports_errors\n"
        # nohup has it ignored, and that stays so
        f"signal.signal({number:d}, signal.default_int_handler)\n"
        "def command():\n"
        f"    try:\n        os.kill(os.getpid(), {number:d})\n"
        f"    finally:\n        os.kill(os.getpid(), {number:d}); print('tidied up')\n"
        "reports_errors(command)()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "tidied up\n"
    assert "interrupted" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("report", [(), ("--json", "-")])
def test_a_reader_that_leaves_is_no_error(folder, report):
    command = command_line("export", folder / "ckpt.pth", *report)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert "ckpt.onnx" in names_in(folder)


# --- what an artifact takes, gives and says -------------------------------------------------------


@pytest.mark.slow
def test_bytes_probabilities_labels_and_preprocessing(folder):
    (folder / "labels.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    told = ("--preprocessing", "mean 0.5, std 0.25")
    ends = ("--input-type", "uint8", "--output-type", "probabilities")
    labels = ("--labels", folder / "labels.txt")
    artifact = folder / "out.onnx"
    code, out, _ = run("export", folder / "ckpt.pth", "-o", artifact, *ends, *told, *labels)
    assert code == 0
    assert "mean head, uint8 input, probabilities, nodes" in out
    assert "pictures are prepared as" not in out  # as they were told
    assert json.loads(load_artifact(artifact).metadata["labels"]) == list("abcdefg")
    code, out, _ = run("verify", folder / "ckpt.pth", artifact, *told, "--json", "-")
    assert code == 0
    proof = json.loads(out)["verification"]
    assert (proof["input"], proof["output"]) == ("uint8", "probabilities")
    code, _, err = run("verify", folder / "ckpt.pth", artifact)
    assert code == 1
    assert "--preprocessing" in err
    (folder / "others.txt").write_text("b\na\nc\nd\ne\nf\ng\n")
    labels_of_another = ("--labels", folder / "others.txt")
    code, _, err = run("verify", folder / "ckpt.pth", artifact, *told, *labels_of_another)
    assert code == 1
    assert "calls the class 0 'a'" in err

    fused = folder / "fused.safetensors"
    assert run("fuse", folder / "ckpt.pth", "--output", fused, *told, *labels, "-q")[0] == 0
    code, out, _ = run("inspect", fused)
    assert "7: a, b, c, ..." in out
    assert "crop 0.875, bicubic, mean 0.5, std 0.25" in out
    assert json.loads(run("inspect", fused, "--json", "-")[1])["labels"] == list("abcdefg")
    assert "none" in run("inspect", folder / "ckpt.pth")[1]


@pytest.mark.parametrize("command", ["export", "fuse"])
def test_how_pictures_are_prepared_is_said_where_it_was_assumed(folder, command):
    said = "assumed: pictures are prepared as for ImageNet: crop 0.875, bicubic, mean"
    code, out, _ = run(command, folder / "ckpt.pth")
    assert code == 0
    assert said in out
    told = ("--preprocessing", "mean 0.5", "--force")
    assert "pictures are prepared" not in run(command, folder / "ckpt.pth", *told)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("--preprocessing", "mean 2"), 2, "cannot be understood"),
        (("--labels", "nowhere.txt"), 3, "nowhere.txt cannot be read"),
        (("--labels", "few.txt"), 2, "2 labels were given"),
        (("--labels", "few.txt", "-o", "few.txt", "--force"), 5, "few.txt"),
        (("--output-type", "out.onnx"), 2, "logits"),
    ],
)
def test_what_cannot_be_told_is_refused(folder, monkeypatch, arguments, code, expected):
    monkeypatch.chdir(folder)
    (folder / "few.txt").write_text("a\nb\n")
    found, _, err = run("export", "ckpt.pth", *arguments)
    assert found == code
    assert expected in " ".join(err.split())
    assert names_in(folder) == ["ckpt.pth", "few.txt"]
    assert (folder / "few.txt").read_text() == "a\nb\n"
