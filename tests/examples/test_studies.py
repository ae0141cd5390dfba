"""The scripts that measure or study something do what their docstrings say."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from example_scripts import EXAMPLES, script


def test_every_example_has_a_test():
    tested = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tested


def study(*values):
    """What is left out but for -m study."""
    return pytest.param(*values, marks=pytest.mark.study)


@pytest.mark.parametrize(("epochs", "least"), [(1, 0), study(10, 30)])
def test_train_digits_learns_and_saves_like_an_official_run(tmp_path, epochs, least):
    out = script("train_digits.py", tmp_path, "--epochs", epochs, "--batch-size", 64)
    assert float(out.split("top-1")[1].split("%")[0]) > least  # of ten classes

    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert set(saved) == {
        "model",
        "model_ema",
        "optimizer",
        "lr_scheduler",
        "epoch",
        "scaler",
        "args",
    }
    assert saved["args"].epochs == epochs
    arrays = np.load(tmp_path / "held_out.npz")
    assert arrays["scans"].shape == (360, 8, 8)

    # both of the run's networks, and what is published of it, go through the whole job
    for checkpoint, weights in (("checkpoint", "model"), ("checkpoint", "ema"), ("model", None)):
        chosen = ("--weights", weights) if weights else ()
        path, output = tmp_path / f"{checkpoint}.pth", tmp_path / f"{checkpoint}-{weights}.onnx"
        assert run("export", path, "-o", output, *chosen)[0] == 0


@pytest.mark.parametrize(("sabotaged", "clean"), [(4, 2), study(24, 6)])
def test_mutation_study_misses_nothing_and_raises_no_false_alarm(tmp_path, sabotaged, clean):
    path = tmp_path / "study.json"
    arguments = ("--sabotaged", sabotaged, "--clean", clean, "--seed", 5, "--json", path)
    out = script("mutation_study.py", *arguments)
    assert "FALSE ALARM" not in out

    result = json.loads(path.read_text())
    assert (len(result["sabotaged"]), len(result["clean"])) == (sabotaged, clean)
    # what is infinite is null: not a number, or a breach of contract
    # between one budget and two, chance decides, as the proof's images are others
    above = [c for c in result["sabotaged"] if c["excess"] is None or c["excess"] > 2]
    assert len(result["sabotaged"]) - len(above) < len(above)
    assert all(case["refusal"] for case in above)
    assert not any(case["refusal"] for case in result["clean"])


@pytest.mark.study
@pytest.mark.litert
@pytest.mark.slow
def test_mutation_study_takes_one_format_alone(tmp_path):
    path = tmp_path / "study.json"
    arguments = ("--sabotaged", 4, "--clean", 1, "--seed", 5, "--json", path, "--format", "litert")
    script("mutation_study.py", *arguments)
    result = json.loads(path.read_text())
    cases = [*result["sabotaged"], *result["clean"]]
    assert {case["how"].partition(",")[0] for case in cases} == {"litert"}
    assert all(case["refusal"] for case in result["sabotaged"] if (case["excess"] or 9) > 2)
    assert not result["clean"][0]["refusal"]


def test_mutation_study_sabotages_what_is_around_the_network(tmp_path):
    path = tmp_path / "study.json"
    interface = ("--input-type", "uint8", "--output-type", "probabilities")
    script("mutation_study.py", *interface, "--sabotaged", 8, "--clean", 1, "--json", path)
    result = json.loads(path.read_text())
    kinds = {case["kind"] for case in result["sabotaged"]}
    assert {"mean left out", "borders padded with black", "softmax over the batch"} <= kinds
    above = [c for c in result["sabotaged"] if c["excess"] is None or c["excess"] > 2]
    assert len(above) > 4
    assert all(case["refusal"] for case in above)
    assert {case["block"] for case in above if case["off"] == 0} >= {"pixel_values", "head"}
    assert not any(case["refusal"] for case in result["clean"])


@pytest.mark.parametrize(("sabotaged", "clean"), [(4, 1), study(200, 50)])
def test_int8_sabotage_study_misses_nothing_and_raises_no_false_alarm(tmp_path, sabotaged, clean):
    path = tmp_path / "study.json"
    arguments = ("--sabotaged", sabotaged, "--clean", clean, "--json", path)
    out = script("int8_sabotage_study.py", *arguments)
    assert "MISSED" not in out

    result = json.loads(path.read_text())
    assert (len(result["sabotaged"]), len(result["clean"])) == (sabotaged, clean)
    must = [case for case in result["sabotaged"] if case["must_be_refused"]]
    assert len(must) > sabotaged / 2
    assert all(case["refusal"] for case in must)
    assert not any(case["refusal"] for case in result["clean"])


@pytest.mark.parametrize("sizes", [(48,), study((64, 48))])
def test_compare_image_sizes_measures_each(sizes):
    out = script("compare_image_sizes.py", *sizes)
    for size in sizes:
        side = size // 16
        assert f"{size}x{size}, {side}x{side} tokens:" in out
    assert (64 in sizes) == ("64x64, 4x4 tokens: 99.17 % of 360" in out)


@pytest.mark.parametrize("count", [20, study(80)])
def test_fuzz_checkpoints_finds_no_surprise(count):
    out = script("fuzz_checkpoints.py", "--count", count, "--seed", 7)
    assert out.startswith(f"{count} mutated checkpoints, exit codes {{0: ")


def test_efficientnet_is_the_one_of_its_paper():
    pytest.importorskip("transformers", reason="it builds EfficientNet")
    efficientnet = runpy.run_path(str(EXAMPLES / "compare_efficientnet.py"))["efficientnet"]
    parameters = sum(p.numel() for p in efficientnet("EfficientNet-B2").parameters())
    assert parameters == 9_109_994  # as torchvision's documentation counts them


@pytest.mark.study
def test_compare_efficientnet_times_the_networks_it_names(tmp_path):
    pytest.importorskip("onnxscript", reason="the plain export needs it")
    pytest.importorskip("transformers", reason="it builds EfficientNet")
    path = tmp_path / "figures.json"
    arguments = ("EfficientNet-B2", "--rounds", 2, "--batch-size", 1, "--json", path)
    script("compare_efficientnet.py", *arguments, warnings="ignore")
    rows = {(row["name"], row["form"]): row for row in json.loads(path.read_text())["rows"]}
    assert len(rows) == 5
    # as torchvision's documentation counts them, and 10.9 M in the LeViT paper
    parameters = {name: row["parameters"] for (name, _), row in rows.items()}
    assert parameters.pop("LeViT-192") // 100_000 == 109
    assert parameters == {"EfficientNet-B2": 9_109_994}
    assert rows["LeViT-192", "this tool"]["nodes"] == 250
    assert rows["LeViT-192", "this tool"]["slower"]["median"] == 1


@pytest.mark.study
def test_compare_optimum_measures_both_exports():
    pytest.importorskip("optimum.exporters.onnx", reason="it is what ours is held against")
    out = script("compare_optimum.py", "--runs", 1, warnings="ignore")
    for name in ("levit-deploy", "Optimum"):
        wall, processor, memory = re.findall(rf"{name} .* (\S+) s +(\S+) s +(\S+) MiB", out)[0]
        assert float(wall) > 1
        assert float(processor) > 1
        assert float(memory) > 300  # torch alone takes 200


@pytest.mark.study
def test_quantize_digits_loses_next_to_nothing_where_sums_cannot_saturate():
    lines = script("quantize_digits.py").splitlines()
    before, *rounded = ([float(x) for x in re.findall(r"([\d.]+)%", line)] for line in lines)
    for any_cpu, vnni in zip(rounded[:2], rounded[2:4], strict=True):
        assert any_cpu[0] >= before[0] - 0.3  # by the runtime of any processor
        assert vnni[1] >= before[0] - 0.3  # literally, whatever the processor
    nearest, fitted = (float(re.findall(r"error ([\d.]+)", line)[0]) for line in lines[1:3])
    assert fitted < 0.9 * nearest
    assert min(w8a16[0] for w8a16 in rounded[4:]) >= before[0] - 0.3
