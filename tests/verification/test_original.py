"""Several proofs share what the original computed, and nothing else."""

import copy
from dataclasses import replace

import pytest
import torch
from networks import SHALLOW, trained

from levit_deploy import pipeline
from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.target import ExportOptions
from levit_deploy.verification.original import Originals
from levit_deploy.verification.prove import prove
from levit_deploy.verification.reference import Reference


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    path = tmp_path_factory.mktemp("original") / "ckpt.pth"
    torch.save(trained(SHALLOW).state_dict(), path)
    return read_checkpoint(path)


@pytest.fixture
def runs(monkeypatch):
    """The dtypes in which originals run."""
    dtypes, answers = [], Reference._answers

    def counted(self, model, dtype, images):
        dtypes.append(str(dtype).removeprefix("torch."))
        return answers(self, model, dtype, images)

    monkeypatch.setattr(Reference, "_answers", counted)
    return dtypes


def exported(checkpoint, path, **choices):
    pipeline.export(checkpoint, "onnx", path, force=True, **choices)
    return load_artifact(path)


def test_a_second_proof_runs_the_artifact_alone_and_has_the_figures_of_a_first(
    tmp_path, checkpoint, runs
):
    tokens = exported(checkpoint, tmp_path / "tokens.onnx", layout="tokens")
    spatial = exported(checkpoint, tmp_path / "spatial.onnx", layout="spatial")
    half = exported(checkpoint, tmp_path / "half.onnx", precision="fp16")
    alone = prove(checkpoint, spatial)

    originals = Originals()
    prove(checkpoint, tokens, originals=originals)
    runs.clear()
    assert _figures(prove(checkpoint, spatial, originals=originals)) == _figures(alone)
    assert runs == []
    assert prove(checkpoint, half, originals=originals).passed
    assert set(runs) == {"float16"}  # whose float64 is that of float32


def test_another_output_head_or_checkpoint_is_answered_by_itself(tmp_path, checkpoint):
    artifacts = [
        exported(checkpoint, tmp_path / "mean.onnx"),
        exported(checkpoint, tmp_path / "class.onnx", head="class"),
        *(
            exported(checkpoint, tmp_path / f"{output}.onnx", options=ExportOptions(output=output))
            for output in ("probabilities", "features")
        ),
    ]
    originals = Originals()
    for artifact in artifacts:
        shared = prove(checkpoint, artifact, originals=originals)
        assert _figures(shared) == _figures(prove(checkpoint, artifact))
    other = replace(checkpoint, model=_moved(checkpoint.model))
    assert not prove(other, artifacts[0], originals=originals).passed


def test_an_artifact_that_is_wrong_is_found_by_remembered_answers(tmp_path, checkpoint):
    right = exported(checkpoint, tmp_path / "right.onnx")
    wrong = replace(right, run=lambda images: right.run(images) * 1.001)
    originals = Originals()
    assert prove(checkpoint, right, originals=originals).passed
    assert not prove(checkpoint, wrong, originals=originals).passed
    assert prove(checkpoint, right, originals=originals).passed


def _figures(proof):
    """Those of every kind of input, as far as torch adds up the same from copy to copy."""
    assert proof.passed
    return [(case.name, f"{case.rmse:.2e} {case.budget.rmse:.2e}") for case in proof.cases]


def _moved(model):
    moved = copy.deepcopy(model)
    moved.head.l.bias.data += 0.1
    return moved
