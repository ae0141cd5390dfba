import pytest

from levit_deploy.pictures.class_folders import class_indices, labelled

LABELS = ("tabby", "crane", "ox", "crane")  # ImageNet has two cranes


def test_folders_are_classes_in_the_order_of_their_names():
    assert class_indices(["b", "10", "a", "9"], 4) == {"10": 0, "9": 1, "a": 2, "b": 3}
    assert class_indices(["n02", "n01", "n04", "n03"], 4, LABELS)["n04"] == 3


def test_labels_go_before_the_order_and_need_not_all_be_there():
    assert class_indices(["ox", "tabby"], 4, LABELS) == {"ox": 2, "tabby": 0}


def test_capitals_and_what_stands_for_a_space_do_not_matter():
    labels = ("great white shark", "Tiger-Shark", "T_shirt", "t shirt")
    assert class_indices(["tiger shark", "Great_White-Shark"], 4, labels) == {
        "Great_White-Shark": 0,
        "tiger shark": 1,
    }
    assert labelled(["T_shirt", "T-SHIRT", "ray"], labels) == {"T_shirt": 2}


def test_they_do_where_labels_differ_in_nothing_else():
    assert class_indices(["a", "A"], 2, ("A", "a")) == {"A": 0, "a": 1}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ([], ()),
        (["a", "b", "c"], ()),  # of four classes
        (["a", "b", "c", "d", "e"], ()),
        (["ox", "tabby", "a", "b"], LABELS),  # as many as classes, but ox would be the third
        (["crane", "tabby"], LABELS),  # which of the two?
        (["crane", "a", "b", "c"], LABELS),
        (["OX", "a", "b", "c"], LABELS),
        (["OX", "ox"], LABELS),  # which of the two?
    ],
)
def test_other_names_tell_nothing(names, labels):
    assert class_indices(names, 4, labels) is None
