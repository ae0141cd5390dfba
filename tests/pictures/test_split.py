import math
from pathlib import Path

import numpy as np
import pytest
from float_graphs import CONFIG, save_pictures
from prepared import transform_of

from levit_deploy.arrays import BATCH_SIZE
from levit_deploy.errors import InputError
from levit_deploy.pictures import split
from levit_deploy.pictures.files import read_pictures
from levit_deploy.pictures.split import judging_pictures, split_pictures

CLASSES = CONFIG.num_classes
TRANSFORM = transform_of(CONFIG)


def test_a_quarter_calibrates_and_the_others_judge(tmp_path):
    folder = save_pictures(tmp_path, CLASSES, each=8)
    calibration, judging = split_pictures(folder, TRANSFORM, CLASSES)
    every = sorted(folder.rglob("*.png"))
    assert len(calibration) == len(every) // 4
    others = read_pictures([p for p in every if p not in judging.paths], TRANSFORM)
    np.testing.assert_array_equal(calibration, others)
    assert len(judging.paths) == len(every) - len(calibration)
    classes = {path.parent for path in every}
    assert {path.parent for path in judging.paths} == classes  # of each class, to judge by
    assert {p.parent for p in every if p not in judging.paths} == classes  # and to calibrate on


def test_labels_are_the_folders_in_the_order_of_their_names(tmp_path):
    save_pictures(tmp_path, CLASSES, each=6)
    judging = judging_pictures(tmp_path, TRANSFORM, CLASSES)
    assert judging.labels is not None
    assert [f"class{label}" for label in judging.labels] == [p.parent.name for p in judging.paths]
    assert judging.understood.endswith(
        "the folders taken for the classes 0 class0, 1 class1, "
        + "2 class2, 3 class3, 4 class4, 5 class5, 6 class6"
    )
    names = [f"class{i}" for i in reversed(range(CLASSES))]
    named = judging_pictures(tmp_path, TRANSFORM, CLASSES, class_names=names)
    assert "the classes 0 class6, 1 class5" in named.understood


def test_without_a_folder_for_each_class_there_are_no_labels(tmp_path):
    save_pictures(tmp_path / "few", CLASSES - 1, each=7)
    save_pictures(tmp_path / "stray", CLASSES, each=7)
    (tmp_path / "stray" / "class0" / "001.png").rename(tmp_path / "stray" / "a.png")
    for name in ("few", "stray"):
        assert split_pictures(tmp_path / name, TRANSFORM, CLASSES)[1].labels is None


def test_pictures_are_read_a_few_at_a_time_and_in_order(tmp_path):
    save_pictures(tmp_path, CLASSES, each=3)
    judging = judging_pictures(tmp_path, TRANSFORM, CLASSES)
    batches = list(judging.batches())
    assert max(map(len, batches)) == BATCH_SIZE
    np.testing.assert_array_equal(np.concatenate(batches), read_pictures(judging.paths, TRANSFORM))


def test_of_a_large_folder_so_many_are_taken_evenly(tmp_path, monkeypatch):
    save_pictures(tmp_path, CLASSES, each=12)
    monkeypatch.setattr(split, "MOST_CALIBRATING", CLASSES)
    monkeypatch.setattr(split, "MOST_JUDGING", 2 * CLASSES)
    calibration, judging = split_pictures(tmp_path, TRANSFORM, CLASSES)
    assert len(calibration) == CLASSES
    assert judging.labels is not None
    np.testing.assert_array_equal(np.bincount(judging.labels), [2] * CLASSES)


def test_too_few_pictures_are_refused(tmp_path):
    save_pictures(tmp_path, CLASSES, each=5)
    with pytest.raises(InputError, match=f"has {5 * CLASSES} pictures. Expected 40 or more"):
        split_pictures(tmp_path, TRANSFORM, CLASSES)


def test_every_picture_judges_if_that_is_asked(tmp_path, monkeypatch):
    folder = save_pictures(tmp_path, CLASSES, each=8)
    monkeypatch.setattr(split, "MOST_JUDGING", CLASSES)
    assert len(judging_pictures(folder, TRANSFORM, CLASSES, every=True).paths) == 8 * CLASSES
    calibration, judging = split_pictures(folder, TRANSFORM, CLASSES, every=True)
    assert len(judging.paths) == 8 * CLASSES - len(calibration)


def test_pictures_are_read_once_as_far_as_memory_is_allowed(tmp_path, monkeypatch):
    save_pictures(tmp_path, CLASSES, each=3)
    read: list[Path] = []

    def reading(paths, *rest):
        read.extend(paths)
        return read_pictures(paths, *rest)

    monkeypatch.setattr(split, "read_pictures", reading)
    judging = judging_pictures(tmp_path, TRANSFORM, CLASSES)
    monkeypatch.setattr(split, "MOST_KEPT", BATCH_SIZE * math.prod((*TRANSFORM.image_size, 3)))
    first, again = (list(judging.batches()) for _ in range(2))
    assert read == [*judging.paths, *judging.paths[BATCH_SIZE:]]
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
