import json
import os

import numpy as np
import pytest
import scans
import torch
from command_line import names_in, run

import levit_deploy
from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.evaluation import evaluate
from levit_deploy.pictures.files import find_pictures, read_pictures
from levit_deploy.prediction.embeddings import ROWS, vectors_to
from levit_deploy.targets.load import load_artifact

N = 11  # a batch, and a part of one


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Scans below a folder, artifacts beside it, and that the current folder."""
    (tmp_path / "features.onnx").write_bytes(scans.demo_features())
    (tmp_path / "maps.onnx").write_bytes(scans.demo_features("feature-maps"))
    (tmp_path / "digits.onnx").write_bytes(scans.demo_artifact())
    monkeypatch.chdir(tmp_path)
    folder = scans.save_scans(tmp_path / "scans", N)
    (folder / os.fsdecode(b"torn\xff.png")).write_bytes(b"no picture")
    return folder


def expected(folder):
    """The features by torch, of the pictures that can be read, and their paths."""
    paths = [path for path in find_pictures(folder) if not path.name.startswith("torn")]
    images = torch.from_numpy(read_pictures(paths, scans.TRANSFORM))
    with torch.inference_mode():
        return paths, scans.demo_checkpoint().model.forward_features(images).numpy()


def close(vectors, others):
    np.testing.assert_allclose(vectors, others, rtol=0, atol=1e-4 * np.abs(others).max())


def test_npy_has_a_row_for_each_path_beside_it(folder, tmp_path):
    code, out, err = run("predict", "features.onnx", folder, "--embeddings", "v.npy")
    assert (code, out) == (0, "")
    assert "skipped 1 of 12 pictures" in err
    paths, vectors = expected(folder)
    matrix = np.load(tmp_path / "v.npy")
    assert (matrix.dtype, matrix.shape) == (np.float32, (N, 64))
    assert np.load(tmp_path / "v.npy", mmap_mode="r").shape == (N, 64)
    close(matrix, vectors)
    assert json.loads((tmp_path / "v.paths.json").read_text()) == [str(path) for path in paths]


def test_parquet_has_path_and_vector(folder, tmp_path):
    import pyarrow.parquet

    code, _, _ = run("predict", "features.onnx", folder, "--embeddings", "v.parquet")
    assert code == 0
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    paths, vectors = expected(folder)
    assert table.column_names == ["path", "vector"]
    assert table["path"].to_pylist() == [str(path) for path in paths]
    close(np.stack(table["vector"].to_pylist()), vectors)
    sha256 = load_artifact(tmp_path / "features.onnx").sha256
    assert table.schema.metadata[b"sha256"].decode() == sha256


def test_parquet_is_written_in_groups(tmp_path):
    import pyarrow.parquet

    (tmp_path / "a.onnx").write_bytes(scans.demo_features())
    artifact = load_artifact(tmp_path / "a.onnx")
    with vectors_to(tmp_path / "v.parquet", artifact, force=False) as write:
        for i in range(ROWS + 3):
            write(tmp_path / str(i), np.full(64, i, np.float32))
    file = pyarrow.parquet.ParquetFile(tmp_path / "v.parquet")
    assert file.num_row_groups == 2
    assert [row[0] for row in file.read()["vector"].to_pylist()] == list(range(ROWS + 3))


def test_python_gives_the_same_one_by_one(folder, tmp_path):
    (tmp_path / "fixed.onnx").write_bytes(scans.demo_features(batch_size=4))
    paths, vectors = expected(folder)
    for artifact in ("features.onnx", "fixed.onnx"):
        found = list(levit_deploy.embed(artifact, str(folder)))
        assert [e.path for e in found if not e.problem] == paths
        close(np.stack([e.vector for e in found if e.vector is not None]), vectors)
        (torn,) = (e for e in found if e.problem)
        assert "cannot be read as a picture" in torn.problem


def test_other_outputs_are_refused_with_a_hint(folder):
    with pytest.raises(ArtifactError, match=r"gives features, and no classes.* --embeddings FILE"):
        list(levit_deploy.predict("features.onnx", folder))
    with pytest.raises(ArtifactError, match=r"gives feature maps, and no classes.* export logits"):
        list(levit_deploy.predict("maps.onnx", folder))
    with pytest.raises(ArtifactError, match="--embeddings FILE"):
        evaluate("features.onnx", folder)
    for artifact, output in (("digits.onnx", "logits"), ("maps.onnx", "feature-maps")):
        with pytest.raises(UsageError, match=f"gives {output}, .* --output-type features"):
            list(levit_deploy.embed(artifact, folder))


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("features.onnx", "--embeddings", "v.txt"), 2, "neither .npy nor .parquet"),
        (("digits.onnx", "--embeddings", "v.npy"), 2, "--output-type features"),
        (("features.onnx", "--embeddings", "v.npy", "--csv", "a.csv"), 2, "no answers"),
        (("features.onnx", "--embeddings", "v.npy", "--json", "a.json"), 2, "no answers"),
        (("features.onnx", "--embeddings", "v.npy", "--engine", "ray"), 2, "options for Ray"),
        (("features.onnx", "--embeddings", "nowhere/v.npy"), 5, "--embeddings"),
        (("features.onnx", "--embeddings", "features.onnx"), 5, "never overwritten"),
        (("features.onnx",), 3, "--embeddings FILE"),
    ],
)
def test_what_makes_no_sense_writes_nothing(folder, tmp_path, arguments, code, reason):
    before = names_in(tmp_path)
    artifact, *options = arguments
    found, out, err = run("predict", artifact, folder, *options)
    assert (found, out) == (code, "")
    assert reason in err
    assert names_in(tmp_path) == before


def test_the_paths_of_another_run_are_not_replaced_unasked(folder, tmp_path):
    (tmp_path / "v.paths.json").write_text("[]")
    words = ("predict", "features.onnx", folder, "--embeddings", "v.npy")
    code, _, err = run(*words)
    assert (code, "v.paths.json exists already" in err) == (5, True)
    assert not (tmp_path / "v.npy").exists()
    assert run(*words, "--force")[0] == 0
    assert len(json.loads((tmp_path / "v.paths.json").read_text())) == N


@pytest.mark.usefixtures("folder")
def test_if_no_picture_can_be_used_nothing_is_written(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"")
    before = names_in(tmp_path)
    code, _, err = run("predict", "features.onnx", "torn.png", "--embeddings", "v.npy")
    assert (code, "No picture could be used" in err) == (3, True)
    assert names_in(tmp_path) == before
