"""Features, and each feature map, are held to a budget of their own."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from networks import SMALL, trained
from onnx import numpy_helper

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import ArtifactError, CheckpointError
from levit_deploy.passes.stage_maps import StageMaps, stage_maps
from levit_deploy.targets import plan
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.target import ExportOptions
from levit_deploy.targets.torchscript import TORCHSCRIPT
from levit_deploy.verification import measure as measuring
from levit_deploy.verification.batches import compare_batches
from levit_deploy.verification.compare import compare_case
from levit_deploy.verification.inputs import standard_cases
from levit_deploy.verification.prove import prove
from levit_deploy.verification.reference import Reference

MAPS = ExportOptions(output="feature-maps")
FEATURES = ExportOptions(output="features")
CASES = standard_cases(SMALL, seed=0)
WIDTHS = [12 * 24, 16 * 6, 18 * 2]  # of a row: channels times tokens of each stage
PARTS = {
    "stage1": slice(0, 288),
    "stage2": slice(288, 384),
    "stage3": slice(384, 420),
}
MODEL = stage_maps(trained())
REFERENCE = Reference(MODEL, output="feature-maps")


def exact(images):
    return REFERENCE.logits(images).astype(np.float32)


def changed(part, change):
    def run(images):
        rows = exact(images).copy()
        rows[:, PARTS[part]] = change(rows[:, PARTS[part]])
        return rows

    return run


def test_a_small_map_is_not_judged_by_a_large_one():
    """The budget of one part, added to another a thousand times as quiet, is refused."""

    class TwoScales(Reference):
        """The same maps, of which the last is a thousandth."""

        def _answers(self, *network_and_images):
            rows = super()._answers(*network_and_images).copy()
            rows[:, PARTS["stage3"]] /= 1000
            return rows

    reference = TwoScales(MODEL, output="feature-maps")
    right = reference.logits(CASES[0].draw(8)).astype(np.float32)
    loud = compare_case(CASES[0], reference, lambda _: right, 8, PARTS).results[0].budget.rmse
    wrong = right.copy()
    wrong[:, PARTS["stage3"]] += np.float32(loud)
    results = compare_case(CASES[0], reference, lambda _: wrong, 8, PARTS).results
    assert [bool(result.failures) for result in results] == [False, False, True]
    whole = compare_case(CASES[0], reference, lambda _: wrong, 8, {"all": slice(None)})
    assert not whole.result.failures  # as it would have been


def test_each_map_has_its_own_figures():
    compared = compare_case(CASES[0], REFERENCE, changed("stage2", lambda m: m * 1.01), None, PARTS)
    names = [f"normal, stage{i}" for i in (1, 2, 3)]
    assert [result.name for result in compared.results] == names
    assert [bool(result.failures) for result in compared.results] == [False, True, False]
    assert compared.result.name == names[1]
    expected = REFERENCE.logits(compared.images)[:, PARTS["stage2"]]
    error = exact(compared.images)[:, PARTS["stage2"]] * 1.01 - expected
    assert compared.result.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)
    assert compared.worst == np.abs(error).max(axis=1).argmax()
    assert sum(compared.results[0].histogram) == len(compared.images) * WIDTHS[0]


def test_a_map_that_changes_with_its_neighbours_fails():
    compared = [compare_case(case, REFERENCE, exact, None, PARTS) for case in CASES[:3]]

    def leaking(images):
        rows = exact(images)
        if len(images) > 2:
            rows[-1, PARTS["stage3"]] += 1e-2
        return rows

    batches = compare_batches(compared, REFERENCE, leaking, None, 0, PARTS)
    assert [bool(b.result.failures) for b in batches] == [b.result.size > 2 for b in batches]
    assert batches[-1].result.worst.endswith("stage3")


# Wrong networks and wrong files


class Wrong(StageMaps):
    """Maps that a function has mixed up."""

    change = staticmethod(tuple)

    def forward(self, x):
        return self.change(super().forward(x))


def swapped(model):
    """The first two maps in each other's place, cut and filled to the right shapes."""

    def change(maps):
        first, second = maps[0].flatten(1), maps[1].flatten(1)
        filled = torch.cat([second, first[:, second.shape[1] :]], dim=1)
        cut = first[:, : second.shape[1]]
        return filled.view_as(maps[0]), cut.reshape(maps[1].shape), maps[2]

    mix(model, change)


def upside_down(model):
    mix(model, lambda maps: (maps[0], maps[1].flip(2), maps[2]))


def rows_for_columns(model):
    def change(maps):
        batch, channels, height, width = maps[0].shape
        turned = maps[0].transpose(2, 3).reshape(batch, channels, height, width)
        return turned, *maps[1:]

    mix(model, change)


def channels_last(model):
    mix(model, lambda maps: (*maps[:2], maps[2].permute(0, 2, 3, 1).reshape(maps[2].shape)))


def mix(model, change):
    model.blocks.__class__ = type("Mixed", (Wrong,), {"change": staticmethod(change)})


def one_block_early(model):
    """The second map before the last block of its stage."""
    names = list(model.blocks._modules)
    place = names.index("stage2")
    names[place - 1], names[place] = names[place], names[place - 1]
    model.blocks._modules = {name: model.blocks._modules[name] for name in names}


@pytest.mark.parametrize(
    ("sabotage", "where"),
    [
        (swapped, "stage1"),
        (upside_down, "stage2"),
        (rows_for_columns, "stage1"),
        (channels_last, "stage3"),
        (one_block_early, "stage2"),
    ],
)
def test_wrong_maps_are_refused_and_named(tmp_path, checkpoint, monkeypatch, sabotage, where):
    right = plan.to_plain

    def wrong(*arguments):
        plain = right(*arguments)
        sabotage(plain)
        return plain

    monkeypatch.setattr(plan, "to_plain", wrong)
    output = tmp_path / "a.pt"
    made = plan.Plan(
        checkpoint=checkpoint,
        target=TORCHSCRIPT,
        head="mean",
        layout="tokens",
        options=MAPS,
    )
    output.write_bytes(made.serialize())
    verification = pipeline.verify(checkpoint, output)
    assert not verification.passed
    assert verification.parting.block == where
    assert any(f", {where}: " in failure for failure in verification.failures)


def test_features_behind_the_heads_batchnorm_are_refused(tmp_path, checkpoint):
    """The trunk is right, and the file has no trace of a head: only the numbers tell."""
    pipeline.export(checkpoint, "onnx", tmp_path / "a", options=FEATURES)
    artifact = load_artifact(tmp_path / "a")
    bn = checkpoint.model.head.bn

    def run(images):
        with torch.inference_mode():
            return bn(torch.from_numpy(artifact.run(images))).numpy()

    found = prove(checkpoint, dataclasses.replace(artifact, run=run))
    assert not found.passed
    assert found.parting.block == "features"


def test_a_wrong_weight_in_the_file_is_named_by_its_block(tmp_path, checkpoint):
    path = tmp_path / "a.onnx"
    pipeline.export(checkpoint, "onnx", path, options=MAPS)
    model = onnx.load(path)
    name = "blocks.3.m.0.bias"
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor) + np.float32(0.1)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, path)
    found = pipeline.verify(checkpoint, path)
    assert found.parting.block == "blocks.3.m"  # as the checkpoint calls it


def test_maps_are_found_by_their_names(tmp_path, checkpoint):
    path = tmp_path / "a.onnx"
    pipeline.export(checkpoint, "onnx", path, layout="tokens", options=MAPS)
    model = onnx.load(path)
    first, second, third = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([second, first, third])
    (tool,) = (entry for entry in model.metadata_props if entry.key == "tool")
    tool.value = "levit-deploy 0.0.1"  # another version, so that the numbers alone decide
    onnx.save(model, path)
    assert pipeline.verify(checkpoint, path).passed
    swapped_names = {"stage1": "stage2", "stage2": "stage1"}
    for node in model.graph.node:
        node.output[0] = swapped_names.get(node.output[0], node.output[0])
    for output in (first, second):
        output.name = swapped_names[output.name]
    del model.graph.output[:]
    model.graph.output.extend([first, second, third])
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match=r"gives maps of .* Export it again"):
        pipeline.verify(checkpoint, path)


def test_a_map_that_proves_nothing_in_bfloat16_is_refused_though_others_do(tmp_path, monkeypatch):
    """Its own budget is as wide as its images differ."""
    model = trained()
    torch.save(model.state_dict(), tmp_path / "ckpt.pth")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pth")
    right = measuring.compare_case

    def dull(*arguments):
        compared = right(*arguments)
        first, *others = compared.results
        return dataclasses.replace(
            compared, results=(first, *(dataclasses.replace(r, spread=0.0) for r in others))
        )

    monkeypatch.setattr(measuring, "compare_case", dull)
    with pytest.raises(CheckpointError, match=r"on normal, stage2 inputs.*feature maps differ"):
        pipeline.export(checkpoint, "torchscript", tmp_path / "a", precision="bf16", options=MAPS)


def test_a_file_that_is_not_ours_gives_what_a_headless_checkpoint_does(tmp_path):
    state = {k: t for k, t in trained().state_dict().items() if not k.startswith("head")}
    torch.save(state, tmp_path / "ckpt.pth")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pth")
    path = tmp_path / "a.onnx"
    pipeline.export(checkpoint, "onnx", path, options=FEATURES)
    model = onnx.load(path)
    del model.metadata_props[:]
    model.graph.output[0].name = model.graph.node[-1].output[0] = "output"
    onnx.save(model, path)
    found = pipeline.verify(checkpoint, path)
    assert found.passed
    assert found.interface.output == "features"
    assert {case.decided for case in found.cases} == {None}


def test_int8_of_features_is_not_judged(checkpoint, tmp_path):
    pipeline.export(checkpoint, "onnx", tmp_path / "a", options=FEATURES)
    artifact = load_artifact(tmp_path / "a")
    claims = dataclasses.replace(artifact, metadata={**artifact.metadata, "precision": "int8"})
    with pytest.raises(ArtifactError, match="claims to give features in int8"):
        prove(checkpoint, claims)
