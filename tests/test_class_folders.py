import pytest

from levit_deploy.class_folders import class_indices

LABELS = ("tabby", "crane", "ox", "crane")  # ImageNet has two cranes


def test_folders_are_classes_in_the_order_of_their_names():
    assert class_indices(["b", "10", "a", "9"], 4) == {"10": 0, "9": 1, "a": 2, "b": 3}
    assert class_indices(["n02", "n01", "n04", "n03"], 4, LABELS)["n04"] == 3


def test_labels_go_before_the_order_and_need_not_all_be_there():
    assert class_indices(["ox", "tabby"], 4, LABELS) == {"ox": 2, "tabby": 0}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ([], ()),
        (["a", "b", "c"], ()),  # of four classes
        (["a", "b", "c", "d", "e"], ()),
        (["ox", "tabby", "a", "b"], LABELS),  # as many as classes, but ox would be the third
        (["crane", "tabby"], LABELS),  # which of the two?
        (["crane", "a", "b", "c"], LABELS),
    ],
)
def test_other_names_tell_nothing(names, labels):
    assert class_indices(names, 4, labels) is None
