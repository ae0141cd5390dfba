import copy
import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
import scans
import torch
from command_line import run
from pictures_on_disk import unlisted

import levit_deploy
from levit_deploy import evaluation
from levit_deploy.errors import ArtifactError, InputError
from levit_deploy.evaluation import evaluate
from levit_deploy.pictures.files import find_pictures, read_pictures

N = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return scans.save_scans(tmp_path_factory.mktemp("scans"), N)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "digits.onnx"
    path.write_bytes(scans.demo_artifact())
    return path


def original_logits(folder):
    checkpoint = scans.demo_checkpoint()
    images = read_pictures(find_pictures(folder), scans.TRANSFORM)
    with torch.inference_mode():
        return checkpoint.model(torch.from_numpy(images)).numpy()


def test_what_is_counted_is_what_is_right(folder, artifact):
    labels = np.array([int(path.parent.name) for path in find_pictures(folder)])
    order = np.argsort(-original_logits(folder), axis=1)
    found = levit_deploy.evaluate(artifact, folder, threads=1)
    assert found.top1 == 100 * (order[:, 0] == labels).mean()
    assert found.top5 == 100 * (order[:, :5] == labels[:, None]).any(1).mean()
    assert (found.pictures, found.skipped) == (N, 0)
    assert found.classes == {str(i): i for i in range(10)}
    assert (found.original_top1, found.disagreements) == (None, ())


def misplaced(folder, tmp_path):
    """The same pictures, each in the folder of the next class."""
    for path in find_pictures(folder):
        moved = tmp_path / "next" / str((int(path.parent.name) + 1) % 10) / path.name
        moved.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, moved)
    return tmp_path / "next"


def test_what_is_wrong_is_not_counted(folder, artifact, tmp_path):
    moved = misplaced(folder, tmp_path)
    labels = np.array([int(path.parent.name) for path in find_pictures(moved)])
    order = np.argsort(-original_logits(moved), axis=1)
    found = evaluate(artifact, moved, threads=1)
    assert found.top1 == pytest.approx(100 * (order[:, 0] == labels).mean())
    assert found.top1 < 10 < found.top5 < 95
    assert found.top5 == pytest.approx(100 * (order[:, :5] == labels[:, None]).any(1).mean())


def test_folders_named_as_labels_are_those_classes_in_any_order(tmp_path):
    """Sorted, 'eight' comes first, and would be taken for zero."""
    data = scans.with_metadata(scans.demo_artifact(), labels=json.dumps(scans.LABELS))
    (tmp_path / "a.onnx").write_bytes(data)
    folder = scans.save_scans(tmp_path / "scans", N, scans.LABELS)
    shutil.rmtree(folder / "three")
    found = evaluate(tmp_path / "a.onnx", folder, threads=1)
    assert found.top1 > 95
    assert found.classes["eight"] == 8
    assert "three" not in found.classes


def labelled_artifact(tmp_path, **metadata):
    metadata["labels"] = json.dumps(scans.LABELS)
    path = tmp_path / "labelled.onnx"
    path.write_bytes(scans.with_metadata(scans.demo_artifact(), **metadata))
    return path


def test_labels_written_in_another_way_are_labels(tmp_path):
    """Sorted, 'Eight' comes first, and would be taken for zero."""
    folder = scans.save_scans(tmp_path / "scans", N, [name.title() for name in scans.LABELS])
    found = evaluate(labelled_artifact(tmp_path), folder, threads=1)
    assert found.top1 > 95
    assert found.doubts == ()


def test_an_order_that_labels_do_not_confirm_is_told(folder, tmp_path):
    found = evaluate(labelled_artifact(tmp_path), folder, threads=1)
    (doubt,) = found.doubts
    assert "as they are not named like its labels: 0 for zero, 1 for one, " in doubt
    unlabelled = tmp_path / "unlabelled.onnx"
    unlabelled.write_bytes(scans.with_metadata(scans.demo_artifact(), labels="[]"))
    (doubt,) = evaluate(unlabelled, folder, threads=1).doubts
    assert "as its labels are not known: 0 for 0, 1 for 1, " in doubt


def test_where_some_folders_are_labels_the_others_are_named(tmp_path):
    folder = scans.save_scans(tmp_path / "scans", N, scans.LABELS)
    (folder / "two").rename(folder / "deux")
    (folder / "three").rename(folder / "trois")
    with pytest.raises(InputError, match=r"Of them, deux, trois are not labels\."):
        evaluate(labelled_artifact(tmp_path), folder, threads=1)


def test_another_checkpoint_of_the_same_shape_is_not_called_the_original(folder, tmp_path):
    checkpoint = scans.demo_checkpoint()
    artifact = labelled_artifact(tmp_path, checkpoint_sha256=checkpoint.sha256)
    own = evaluate(artifact, folder, against=checkpoint, threads=1)
    other = dataclasses.replace(checkpoint, sha256="ab" * 32)
    (doubt,) = set(evaluate(artifact, folder, against=other, threads=1).doubts) - set(own.doubts)
    assert "was made from another file than" in doubt
    assert own.checkpoint_sha256 == checkpoint.sha256


def test_an_artifact_agrees_with_its_original(folder, artifact):
    checkpoint = scans.demo_checkpoint()
    found = evaluate(artifact, folder, against=checkpoint, threads=1)
    assert (found.original_top1, found.original_top5) == (found.top1, found.top5)
    assert found.disagreements == ()


BONUS = np.array([0, 0, 0, 0, 0, 0, 0, 8, 0, 0], np.float32)


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    """An artifact that favours seven."""
    proto = onnx.load_model_from_string(scans.demo_artifact())
    for node in proto.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    proto.graph.node.append(onnx.helper.make_node("Add", ["scores", "bonus"], ["logits"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(BONUS, "bonus"))
    path = tmp_path_factory.mktemp("biased") / "a.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_every_disagreement_is_told_with_both_answers(folder, biased, tmp_path):
    folder = misplaced(folder, tmp_path)  # where a wrong answer is no disagreement
    found = evaluate(biased, folder, against=str(scans.demo_checkpoint().path), threads=1)
    logits = original_logits(folder)
    ours, theirs = (logits + BONUS).argmax(1), logits.argmax(1)
    paths = find_pictures(folder)
    parting = np.flatnonzero(ours != theirs)
    assert 3 < len(parting) < N
    assert [d.path for d in found.disagreements] == [paths[i] for i in parting]
    for d, i in zip(found.disagreements, parting, strict=True):
        assert (d.artifact.index, d.original.index) == (ours[i], theirs[i])
        assert d.expected == int(d.path.parent.name)
        for answer, scores in ((d.artifact, logits[i] + BONUS), (d.original, logits[i])):
            powers = np.exp(scores.astype(np.float64))
            expected = powers[answer.index] / powers.sum()
            assert answer.probability == pytest.approx(expected, rel=1e-4)
    labels = np.array([int(path.parent.name) for path in paths])
    assert found.original_top1 == 100 * (theirs == labels).mean()
    assert found.top1 == 100 * (ours == labels).mean()
    assert (found.changed_for_better, found.changed_for_worse) == (0, 0)  # both are wrong
    one, two, three, *_ = found.disagreements
    right = dataclasses.replace(one, expected=one.artifact.index)
    wrong = [dataclasses.replace(d, expected=d.original.index) for d in (two, three)]
    found = dataclasses.replace(found, disagreements=(right, *wrong))
    assert (found.changed_for_better, found.changed_for_worse) == (1, 2)


def test_the_original_is_the_head_that_the_artifact_has(folder, tmp_path):
    (tmp_path / "a.onnx").write_bytes(scans.demo_artifact(head="distill"))
    checkpoint = scans.demo_checkpoint()
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        model.head.l.bias[7] += 100  # the other head, and so the mean, say seven to everything
    other = dataclasses.replace(checkpoint, model=model)
    assert evaluate(tmp_path / "a.onnx", folder, against=other, threads=1).disagreements == ()


def test_what_cannot_be_used_counts_nowhere(folder, artifact, tmp_path):
    shutil.copytree(folder, tmp_path / "scans")
    (tmp_path / "scans" / "0" / "a.png").write_text("no picture")
    told = []
    found = evaluate(artifact, tmp_path / "scans", progress=lambda *of: told.append(of), threads=1)
    assert (found.pictures, found.skipped) == (N, 1)
    assert found.top1 == evaluate(artifact, folder, threads=1).top1
    assert len(told) == N + 1 == told[0][1]
    (problem,) = [problem for problem, _ in told if problem]
    assert "a.png cannot be read" in problem


def test_a_folder_that_changes_meanwhile_is_what_it_was(folder, artifact, tmp_path):
    moved = tmp_path / "scans"
    shutil.copytree(folder, moved)
    lost = len(list((moved / "9").iterdir()))

    def change(_problem, _total):
        if (moved / "9").exists():
            shutil.rmtree(moved / "9")
            shutil.copytree(moved / "0", moved / "8a")  # which comes before it

    found = evaluate(artifact, moved, progress=change, batch_size=1, threads=1)
    assert found.classes == {str(i): i for i in range(10)}
    assert (found.pictures, found.skipped) == (N - lost, lost)


def test_where_all_pictures_vanish_nothing_is_said_of_them(artifact, tmp_path, monkeypatch):
    folder = scans.save_scans(tmp_path / "scans", N)

    def too_late(*given):
        shutil.rmtree(folder)
        return scored(*given)

    scored = evaluation.scored
    monkeypatch.setattr(evaluation, "scored", too_late)
    with pytest.raises(InputError, match=r"No picture could be used\. .*No such file"):
        evaluate(artifact, folder, threads=1)


def test_class_folders_may_be_links_and_one_that_cannot_be_listed_is_skipped(
    folder, artifact, tmp_path, monkeypatch
):
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert evaluate(artifact, linked, threads=1).pictures == N
    closed = len(list((folder / "3").iterdir()))
    monkeypatch.setattr("levit_deploy.pictures.files.os.scandir", unlisted(linked / "3"))
    found = evaluate(artifact, linked, threads=1)
    assert (found.pictures, found.skipped) == (N - closed, 1)
    assert found.classes == {str(i): i for i in range(10)}


def nothing(_folder):
    return "has no pictures in it"


def stray(folder):
    scans.save_scans(folder, 9)
    next(folder.glob("*/*.png")).rename(folder / "a.png")
    return "a.png is not in a class folder"


def too_few(folder):
    scans.save_scans(folder, 3)
    return r"has 3 folders with pictures, 3, 6, 7, and the artifact has 10 classes, without labels"


def all_damaged(folder):
    scans.save_scans(folder, 40)
    for path in folder.glob("*/*.png"):
        path.write_text("no picture")
    return "No picture could be used"


@pytest.mark.parametrize("make", [nothing, stray, too_few, all_damaged])
def test_folders_that_are_no_classes_are_refused(artifact, tmp_path, make):
    folder = tmp_path / "scans"
    folder.mkdir()
    expected = make(folder)
    with pytest.raises(InputError, match=expected):
        evaluate(artifact, folder, threads=1)


def test_a_checkpoint_of_another_shape_is_refused(folder, artifact):
    checkpoint = scans.demo_checkpoint()
    for changes in ({"image_size": (32, 32)}, {"num_classes": 9}):
        other = dataclasses.replace(checkpoint, config=checkpoint.config.replace(**changes))
        with pytest.raises(ArtifactError, match="Give the checkpoint it was made from"):
            evaluate(artifact, folder, against=other, threads=1)


@pytest.mark.slow
def test_the_command_prints_and_reports(folder, biased, tmp_path):
    report = tmp_path / "report.json"
    arguments = ("evaluate", biased, folder, "--threads", "1")
    against = ("--against", scans.demo_checkpoint().path, "--json", report)
    code, out, err = run(*arguments, *against)
    assert (code, err) == (0, "assumed: the activation is hardswish\n")
    words = " ".join(out.split())
    data = json.loads(report.read_text())
    assert f"a.onnx: onnx, fp32, {N} pictures in 10 class folders" in words
    assert f"artifact {data['top1']:.2f} % {data['top5']:.2f} %" in words
    assert f"original {data['original_top1']:.2f} %" in words
    assert "doubtful: " in words  # the demo's artifact does not know what it was made from
    assert "are right" not in words
    better, worse = data["changed_for_better"], data["changed_for_worse"]
    assert (
        f"classified differently from the original: {len(data['disagreements'])} pictures, "
        f"{better} for the better, {worse} for the worse" in words
    )
    assert 100 * (better - worse) / N == pytest.approx(data["top1"] - data["original_top1"])
    assert data["checkpoint"]["sha256"] == scans.demo_checkpoint().sha256
    first = data["disagreements"][0]
    number = first["original"]["index"]
    assert first["artifact"]["index"] == 7 != number
    assert f"{first['path']}: artifact class 7 " in words
    assert f" %, original class {number} {first['original']['probability']:.2%}"[:-1] in words
    next_classes = misplaced(folder, tmp_path)
    code, out, _ = run("evaluate", biased, next_classes, "--threads", "1")
    assert code == 0
    assert "doubtful: only " in out
    doubts = json.loads(run("evaluate", biased, next_classes, "--json", "-")[1])["doubts"]
    assert sum(doubt.startswith("only ") for doubt in doubts) == 1
    code, out, _ = run(*arguments, "--json", "-")
    assert code == 0
    assert json.loads(out)["disagreements"] == []
    assert json.loads(out)["changed_for_worse"] is None
    assert json.loads(out)["checkpoint"] is None
    code, _, err = run(*arguments, "--weights", "ema")
    assert code == 2
    assert "--against" in err
