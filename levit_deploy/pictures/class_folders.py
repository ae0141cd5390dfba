"""The class of the pictures in a folder, by the folder's name."""

from collections import Counter
from collections.abc import Iterable, Sequence

DOUBTFUL_TOP1 = 50.0  # percent; with the classes in another order, or pictures of another kind
_SPACES = str.maketrans("_-", "  ")


def class_indices(
    folders: Iterable[str], num_classes: int, labels: Sequence[str] = ()
) -> dict[str, int] | None:
    """The class index of each folder, by name; None if the names do not tell.

    If all are ``labels``, each is the class of that label, and classes may lack a folder.
    Otherwise the classes are the folders in the order of their names, as in torchvision's
    ``ImageFolder``: one folder a class, and none of them a label, as that would contradict the
    order.
    """
    names = sorted(folders)
    indices = labelled(names, labels)
    if names and len(indices) == len(names):
        return indices if len(set(indices.values())) == len(names) else None
    folded = set(map(_folded, labels))
    if len(names) != num_classes or any(_folded(name) in folded for name in names):
        return None
    return {name: i for i, name in enumerate(names)}


def labelled(folders: Iterable[str], labels: Sequence[str]) -> dict[str, int]:
    """The class index of each folder that is named like one label, and no other.

    Capitals do not matter, and space, ``_`` and ``-`` are the same, unless labels differ in nothing
    else.
    """
    exact, alike = _unique(labels), _unique([_folded(label) for label in labels])
    indices = {name: exact.get(name, alike.get(_folded(name))) for name in folders}
    return {name: index for name, index in indices.items() if index is not None}


def _unique(labels: Sequence[str]) -> dict[str, int]:
    times = Counter(labels)
    return {label: i for i, label in enumerate(labels) if times[label] == 1}


def _folded(name: str) -> str:
    return name.casefold().translate(_SPACES)


def doubtful(top1: float) -> str:
    """A question to the user if a network is seldom right; empty otherwise."""
    if top1 >= DOUBTFUL_TOP1:
        return ""
    return (
        f"only {top1:.2f} % are right, so this says little: are the folders those of the classes, "
        "in their order, and the pictures prepared as in training (--preprocessing of export)?"
    )
