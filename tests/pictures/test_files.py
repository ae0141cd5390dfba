import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from networks import SMALL
from pictures_on_disk import BROKEN, save, unlisted
from PIL import Image
from prepared import prepare, transform_of

from levit_deploy.errors import InputError, UsageError
from levit_deploy.pictures import files as pictures
from levit_deploy.pictures.files import (
    FORMATS,
    SUFFIXES,
    damage_passed_over,
    find_pictures,
    is_picture_below,
    read_picture,
    walk_pictures,
)
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing
from levit_deploy.pictures.transform import Transform
from levit_deploy.verification.inputs import MOST_PICTURES, picture_case

CONFIG = SMALL.replace(image_size=(16, 16))
OTHER = Preprocessing(crop_fraction=0.9, interpolation="bilinear", mean=(0.5,), std=(0.25,))
CHECKPOINT = SimpleNamespace(transform=transform_of(CONFIG))


def images(folder, checkpoint=CHECKPOINT):
    case = picture_case(checkpoint, folder)
    return checkpoint.transform.normalise(case.draw(case.sizes[0]))


def test_pictures_are_found_below_the_folder_and_nothing_else(tmp_path):
    for name in ("b.png", "A.JPG", "c/d.Jpeg", "c/e/f.tif", "a.b.webp"):
        save(tmp_path / name)
    save(tmp_path / "._hidden.png")
    save(tmp_path / ".hidden" / "g.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path)]
    assert found == ["A.JPG", "a.b.webp", "b.png", "c/d.Jpeg", "c/e/f.tif"]


def test_a_folder_may_itself_be_hidden(tmp_path):
    save(tmp_path / ".cache" / "a.png")
    assert len(find_pictures(tmp_path / ".cache")) == 1


def test_they_come_in_order_as_the_network_expects_them(tmp_path):
    second, first = save(tmp_path / "b.png", seed=1), save(tmp_path / "a.png", seed=2)
    for preprocessing in (IMAGENET, OTHER):
        found = images(tmp_path, SimpleNamespace(transform=transform_of(CONFIG, preprocessing)))
        assert found.shape == (2, 3, 16, 16)
        np.testing.assert_array_equal(found[0], prepare(first, CONFIG, preprocessing))
        np.testing.assert_array_equal(found[1], prepare(second, CONFIG, preprocessing))


@pytest.mark.parametrize("count", [MOST_PICTURES, MOST_PICTURES + 1, 2 * MOST_PICTURES + 2, 200])
def test_of_many_some_are_taken_evenly_spread(tmp_path, count):
    for i in range(count):
        Image.new("L", (1, 1), i).save(tmp_path / f"{i:03}.png")
    unchanged = Preprocessing(mean=(0,), std=(1,))
    grey = SimpleNamespace(transform=transform_of(CONFIG.replace(in_channels=1), unchanged))
    numbers = np.rint(images(tmp_path, grey)[:, 0, 0, 0] * 255).astype(int)
    assert len(numbers) == MOST_PICTURES == len(set(numbers))
    assert numbers[0] == 0
    gaps = np.diff([*numbers, count])
    assert gaps.max() - gaps.min() <= 1


def test_few_pictures_can_be_drawn_more_often_than_they_are_there(tmp_path):
    save(tmp_path / "a.png", seed=1)
    save(tmp_path / "b.png", seed=2)
    case = picture_case(CHECKPOINT, tmp_path)
    assert case.sizes == (2, 32, 64)
    two, many = case.draw(2), case.draw(64)
    assert many.shape == (64, 16, 16, 3)
    assert many.dtype == np.uint8
    np.testing.assert_array_equal(many[:2], two)
    assert len({image.tobytes() for image in many}) == 64
    np.testing.assert_array_equal(many, picture_case(CHECKPOINT, tmp_path).draw(64))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_of_a_format_that_is_read(tmp_path, suffix):
    assert Image.registered_extensions()[suffix] in FORMATS
    save(tmp_path / f"a{suffix}")
    assert images(tmp_path).shape == (1, 3, 16, 16)


def test_the_two_pictures_a_telephone_puts_into_one_file_are_one(tmp_path):
    extra = Image.new("RGB", (30, 24))
    save(tmp_path / "a.jpg")
    save(tmp_path / "b.jpg", format="MPO", save_all=True, append_images=[extra])
    with Image.open(tmp_path / "b.jpg") as picture:
        assert picture.n_frames == 2
    one, two = images(tmp_path)
    np.testing.assert_array_equal(one, two)


def test_no_picture_anywhere_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match=r"has no pictures in it .* Name another"):
        picture_case(CHECKPOINT, tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "nowhere"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match=f"{name} is not a folder"):
        picture_case(CHECKPOINT, tmp_path / name)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures.os, "scandir", unlisted(tmp_path))
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        find_pictures(tmp_path)


def test_one_below_it_stands_in_the_place_of_what_is_in_it(tmp_path, monkeypatch):
    for name in ("a.png", "b/c/a.png", "d.png"):
        save(tmp_path / name)
    monkeypatch.setattr(pictures.os, "scandir", unlisted(tmp_path / "b" / "c"))
    found = [str(path.relative_to(tmp_path)) for path in walk_pictures(tmp_path)]
    assert found == ["a.png", "b/c", "d.png"]
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_picture(tmp_path / "b" / "c", np.asarray)
    with pytest.raises(InputError, match="c cannot be read: it cannot be listed"):
        find_pictures(tmp_path)  # for a proof, which is on all


def test_names_are_read_a_folder_at_a_time(tmp_path):
    save(tmp_path / "a" / "a.png")
    save(tmp_path / "b" / "b.png")
    found = walk_pictures(tmp_path)
    assert next(found).name == "a.png"
    save(tmp_path / "b" / "a.png")
    assert [path.name for path in found] == ["a.png", "b.png"]


def test_what_never_ends_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(
        InputError, match=r"a\.png cannot be read as a picture: it is not a regular file"
    ):
        read_picture(tmp_path / "a.png", np.asarray)


def test_damage_that_can_be_read_past_is_passed_over(tmp_path):
    def careless(picture):
        warnings.warn_explicit(
            "Corrupt EXIF data", UserWarning, "TiffImagePlugin.py", 1, "PIL.Tiff"
        )
        return np.asarray(picture)

    save(tmp_path / "a.png")
    with damage_passed_over():
        assert read_picture(tmp_path / "a.png", careless).shape == (24, 30, 3)
    with pytest.raises(InputError, match="Corrupt EXIF data"):  # the tests' own filter
        read_picture(tmp_path / "a.png", careless)


def as_tiff(path, mode, value):
    Image.new(mode, (40, 40), value).save(path, format="TIFF")


UNFIT = {
    "pixels of no known range": (lambda path: as_tiff(path, "F", 1), "of 16, from 0 to 65535"),
    "pixels of 32 bits": (lambda path: as_tiff(path, "I", 1 << 20), "of 16, from 0 to 65535"),
    "a thread": (lambda path: Image.new("L", (60_000, 1)).save(path), "sides more alike"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_whole_picture_that_is_of_no_use_is_not_called_broken(tmp_path, case):
    make, expected = UNFIT[case]
    make(tmp_path / "b.png")
    config = SimpleNamespace(transform=transform_of(SMALL.replace(image_size=(64, 64))))
    with pytest.raises(InputError, match=rf"b\.png cannot be used: .*{expected}\. Convert it"):
        picture_case(config, tmp_path)


@pytest.mark.parametrize("case", BROKEN)
def test_one_picture_that_cannot_be_read_refuses_them_all(tmp_path, case):
    save(tmp_path / "a.png")
    BROKEN[case](tmp_path / "b.png")
    config = SimpleNamespace(transform=transform_of(SMALL.replace(image_size=(64, 64))))
    with pytest.raises(InputError, match=r"b\.png cannot be read as a picture: .*take it out"):
        picture_case(config, tmp_path)


@pytest.mark.parametrize("limit", [500, 100])
def test_a_picture_that_would_take_all_memory_is_refused(tmp_path, monkeypatch, limit):
    save(tmp_path / "a.png")  # 720 pixels: Pillow warns above its limit and refuses above twice it
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match=rf"a\.png cannot be used: .* {limit} pixels"):
        picture_case(CHECKPOINT, tmp_path)


def test_pictures_the_network_cannot_take_are_no_fault_of_the_pictures(tmp_path):
    save(tmp_path / "a.png")
    checkpoint = SimpleNamespace(transform=transform_of(CONFIG.replace(in_channels=4)))
    with pytest.raises(UsageError, match="4 channels"):
        picture_case(checkpoint, tmp_path)


def test_neither_is_a_machine_out_of_memory(tmp_path, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    save(tmp_path / "a.png")
    monkeypatch.setattr(Transform, "fit", exhausted)
    with pytest.raises(MemoryError):
        picture_case(CHECKPOINT, tmp_path)


def test_what_is_named_like_a_picture_is_found_though_it_is_none(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("nowhere.png")
    (tmp_path / "c.png").symlink_to("c.png")
    (tmp_path / "d").symlink_to("d")  # which leads nowhere, and is not named so
    found = list(walk_pictures(tmp_path))
    assert [path.name for path in found] == ["a.png", "b.png", "c.png"]
    for path in found:
        with pytest.raises(InputError, match="cannot be read as a picture"):
            read_picture(path, np.asarray)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "elsewhere" / "a.png")
    folder = tmp_path / "folder"
    save(folder / "b" / "b.png")
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    (folder / "b" / "c").symlink_to(tmp_path / "elsewhere")
    (folder / "b" / "up").symlink_to(folder)
    (tmp_path / "elsewhere" / "self").symlink_to(".")
    found = [str(path.relative_to(folder)) for path in walk_pictures(folder)]
    assert found == ["a/a.png", "b/b.png", "b/c/a.png"]
    assert is_picture_below(folder / "a" / "a.png", folder)


def test_a_link_to_a_picture_is_one(tmp_path):
    save(tmp_path / "elsewhere" / "a.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    assert [path.name for path in find_pictures(folder)] == ["link.png"]
