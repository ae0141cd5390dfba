"""Which class the pictures in a folder are of, by the folder's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


def class_indices(
    folders: Iterable[str], num_classes: int, labels: Sequence[str] = ()
) -> dict[str, int] | None:
    """The class index of each folder, by name; None where the names do not tell.

    Where all are ``labels``, each is the class of that label, and classes without a folder are
    allowed. Otherwise the classes are the folders in the order of their names, as torchvision's
    ``ImageFolder`` has them: one folder a class, and none of them a label, as that would
    contradict the order.
    """
    names = sorted(folders)
    times = Counter(labels)
    known = {label: i for i, label in enumerate(labels) if times[label] == 1}
    if names and all(name in known for name in names):
        return {name: known[name] for name in names}
    if len(names) != num_classes or any(name in times for name in names):
        return None
    return {name: i for i, name in enumerate(names)}
