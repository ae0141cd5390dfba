import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import scans
from pictures_on_disk import BROKEN
from PIL import Image, ImageFile

import levit_deploy
from levit_deploy.errors import ArtifactError, BackendError, InputError, UsageError
from levit_deploy.pictures.files import find_pictures, read_pictures
from levit_deploy.prediction.predict import best, every_picture, predictions
from levit_deploy.runtime import isolated
from levit_deploy.targets.load import load_artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return scans.save_scans(tmp_path_factory.mktemp("scans"), 30)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "digits.onnx"
    path.write_bytes(scans.demo_artifact())
    return path


def plain_softmax(data: bytes, folder: Path) -> np.ndarray:
    """What onnxruntime itself computes of the pictures, one by one."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    images = read_pictures(find_pictures(folder), scans.TRANSFORM)
    logits = np.concatenate([session.run(None, {"pixel_values": x[None]})[0] for x in images])
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(1, keepdims=True)


def close(found, expected):
    """The same but for the rounding of logits, which is not the same in every batch."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_python_has_what_onnxruntime_computes(folder, path):
    found = list(levit_deploy.predict(path, folder, top_k=10, threads=1))
    assert [p.path for p in found] == find_pictures(folder)
    expected = plain_softmax(path.read_bytes(), folder)
    for prediction_, row in zip(found, expected, strict=True):
        assert [a.index for a in prediction_.answers] == np.argsort(-row).tolist()
        close([a.probability for a in prediction_.answers], np.sort(row)[::-1])
        assert {a.label for a in prediction_.answers} == {""}
    right = [p.path.parent.name == str(p.answers[0].index) for p in found]
    assert np.mean(right) > 0.95  # it is really the digits' network


@pytest.mark.parametrize(
    ("format", "fixed", "asked"),
    [
        ("onnx", None, 1),
        ("onnx", None, 7),
        ("onnx", 4, None),
        ("torchscript", None, None),
        ("fused", None, 30),
    ],
)
def test_every_kind_of_artifact_and_batch_answers_alike(
    folder, path, tmp_path, format, fixed, asked
):
    expected = plain_softmax(path.read_bytes(), folder).max(1)
    other = tmp_path / "artifact"
    other.write_bytes(scans.demo_artifact(format, fixed))
    loaded = load_artifact(other, threads=1)
    assert loaded.batch_size == fixed
    found = list(predictions(loaded, find_pictures(folder), top_k=1, batch_size=asked))
    assert [p.path for p in found] == find_pictures(folder)  # 30 is no multiple of 4 or 7
    close([p.answers[0].probability for p in found], expected)


def test_labels_and_probabilities_are_used_as_the_metadata_says(folder, path, tmp_path):
    proto = onnx.load_model_from_string(
        scans.with_metadata(
            path.read_bytes(), labels=json.dumps(scans.LABELS), output="probabilities"
        )
    )
    for node in proto.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
    proto.graph.output[0].name = "probabilities"
    (tmp_path / "p.onnx").write_bytes(proto.SerializeToString())
    loaded = load_artifact(tmp_path / "p.onnx", threads=1)
    found = list(predictions(loaded, find_pictures(folder)))
    close(
        [p.answers[0].probability for p in found], plain_softmax(path.read_bytes(), folder).max(1)
    )
    assert all(a.label == scans.LABELS[a.index] for p in found for a in p.answers)


def test_broken_pictures_are_named_in_place_and_the_others_answered(path, tmp_path):
    scans.save_scans(tmp_path, 12)
    (tmp_path / "6").mkdir(exist_ok=True)
    good = {p.path.name: p for p in predictions(load_artifact(path), find_pictures(tmp_path))}
    for i, break_it in enumerate(BROKEN.values()):
        break_it(tmp_path / "6" / f"0{i:02}b.png")
    paths = [*find_pictures(tmp_path), tmp_path / "pipe.png"]
    os.mkfifo(paths[-1])
    found = list(predictions(load_artifact(path), paths, batch_size=5))
    assert [p.path for p in found] == paths
    broken = [p for p in found if p.problem]
    assert len(broken) == len(BROKEN) + 1
    for p in broken:
        assert not p.answers
        assert p.problem.startswith(f"{p.path} cannot be ")
    for p in found:
        if not p.problem:
            close(
                [a.probability for a in p.answers],
                [a.probability for a in good[p.path.name].answers],
            )


def test_where_nothing_can_be_used_the_end_is_an_error(path, tmp_path):
    names = [tmp_path / "a.png", tmp_path / "b.png"]
    for name in names:
        name.write_text("no picture")
    found = predictions(load_artifact(path), names)
    assert [next(found).path, next(found).path] == names
    with pytest.raises(InputError, match=r"No picture could be used\. .*b\.png cannot be read"):
        next(found)


def test_files_are_taken_whatever_their_names_and_folders_for_what_is_below(folder, tmp_path):
    odd = tmp_path / "picture"
    shutil.copy(find_pictures(folder)[0], odd)
    given = [odd, folder / "3", odd, folder / "0"]
    expected = [odd, *find_pictures(folder / "3"), odd, *find_pictures(folder / "0")]
    assert list(every_picture(given)) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("nowhere", "cannot be read: No such"), ("e", "no pictures")]
)
def test_a_path_without_pictures_is_refused_before_anything_is_done(
    folder, tmp_path, name, expected
):
    (tmp_path / "e").mkdir()
    with pytest.raises(InputError, match=expected):
        every_picture([folder, tmp_path / name])
    with pytest.raises(InputError, match=expected):  # before no.onnx is looked at
        levit_deploy.predict("no.onnx", [folder, tmp_path / name])


def test_folders_are_read_only_as_far_as_answers_are_asked_for(path, tmp_path, monkeypatch):
    """However many pictures there are, no more than two batches are in memory."""
    scans.save_scans(tmp_path, 60)
    reading, lock = [], threading.Lock()
    load = ImageFile.ImageFile.load

    def counted(picture):
        with lock:
            reading.append(picture)
        return load(picture)

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", counted)
    found = predictions(load_artifact(path), every_picture([tmp_path]), batch_size=4)
    for _ in range(5):
        next(found)
    opened = len({id(picture) for picture in reading})
    assert 5 <= opened <= 8 + 8
    found.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 0}, "--top-k 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": 3}, "takes exactly 4"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(folder, tmp_path, options, expected):
    (tmp_path / "a.onnx").write_bytes(scans.demo_artifact(batch_size=4))
    loaded = load_artifact(tmp_path / "a.onnx", threads=1)
    with pytest.raises(UsageError, match=expected):
        list(predictions(loaded, find_pictures(folder), **options))


def test_of_equal_answers_the_first_is_taken_and_no_more_than_there_are():
    found = best(np.array([1, 3, 3, -np.float32(3e38)], np.float32), "abcd", 9, logits=True)
    assert [a.label for a in found] == ["b", "c", "a", "d"]
    assert sum(a.probability for a in found) == pytest.approx(1)
    assert found[0].probability == found[1].probability > found[2].probability > 0
    many = best(np.tile(np.float32([0, 1]), 500), (), 3, logits=True)  # few are sorted otherwise
    assert [a.index for a in many] == [1, 3, 5]
    assert [
        a.label for a in best(np.array([1.0, 0, 3], np.float32), "abc", 2, logits=True)
    ] == list("ca")


@pytest.mark.isolated
def test_a_runtime_that_dies_is_an_error_and_leaves_nothing_running(folder, path, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        isolated.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    threads = threading.active_count()
    found = levit_deploy.predict(path, folder, batch_size=2, threads=1)
    next(found)
    started[0].send_signal(signal.SIGSEGV)
    with pytest.raises(BackendError, match=r"crashed \(SIGSEGV\)"):
        list(found)
    assert threading.active_count() <= threads + 1  # that reads the pipe, and is ending


@pytest.mark.slow
def test_a_script_that_stops_reading_answers_keeps_its_exit_code(folder, path):
    script = f"""
import levit_deploy
answers = levit_deploy.predict({str(path)!r}, {str(folder)!r}, threads=1)
next(answers)
raise SystemExit(3)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (found.returncode, found.stderr) == (3, b"")


def test_an_artifact_that_says_nothing_of_pictures_is_refused(folder, tmp_path):
    (tmp_path / "a.onnx").write_bytes(scans.with_metadata(scans.demo_artifact(), config="{}"))
    with pytest.raises(ArtifactError, match="does not state its preprocessing"):
        next(levit_deploy.predict(tmp_path / "a.onnx", [folder], threads=1))


def test_a_picture_of_too_many_pixels_is_passed_over(path, tmp_path, monkeypatch):
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    Image.new("L", (9, 9)).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    first, second = predictions(load_artifact(path), find_pictures(tmp_path))
    assert "more than 100 pixels" in first.problem
    assert second.answers
