import gc
import importlib.util
import json
import os
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from every_format import EXTRAS
from float_graphs import int8_form, noise, rounded
from interfaces import BOTH, SQUARE
from networks import trained

from levit_deploy import pipeline
from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.runtime import isolated
from levit_deploy.runtime.artifact import Artifact, read_artifact
from levit_deploy.runtime.child import imported
from levit_deploy.targets.onnx_int8_writer import Int8Form

# The networks are tiny: threads cost more than they bring, all the more beside other work.
torch.set_num_threads(1)
# Few users set it, and it hides that what is left in a buffer cannot be written at the end.
os.environ.pop("PYTHONUNBUFFERED", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs an extra that is not installed."""
    for extra, package in EXTRAS.items():
        if importlib.util.find_spec(package) is None:
            for item in items:
                if item.get_closest_marker(extra):
                    item.add_marker(pytest.mark.skip(f"needs the extra {extra}"))


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> None:
    """Keep what was imported out of the collections of garbage that every export asks for.

    Modules and collected tests are half a million objects, and each collection takes 0.4 s.
    """
    gc.collect()
    gc.freeze()


class InThisProcess:
    """Loads an artifact here instead of in a child, which takes seconds to import torch."""

    def __init__(self, command: list[str], _timeout_s: float) -> None:
        _, loader, _, self.threads, self.literal, _ = json.loads(command[-1])
        self.loader = imported(loader)

    def load(self, path: Path) -> Artifact:
        return self.loader(path, read_artifact(path), self.threads, self.literal)

    def end(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_children(request, monkeypatch) -> list[InThisProcess]:
    """Run artifacts in this process, but for the tests marked as ``isolated``.

    Returns what stands for the child processes that were started.
    """
    started = []

    def start(command: list[str], timeout_s: float) -> InThisProcess:
        started.append(InThisProcess(command, timeout_s))
        return started[-1]

    if "isolated" not in request.keywords:
        monkeypatch.setattr(isolated, "_Child", start)
    return started


@pytest.fixture(scope="session")
def proven(tmp_path_factory) -> Path:
    """A folder with a checkpoint, ckpt.pth, and its proven ckpt.onnx; not to be changed."""
    folder = tmp_path_factory.mktemp("proven")
    torch.save({"model": trained().state_dict()}, folder / "ckpt.pth")
    pipeline.export(read_checkpoint(folder / "ckpt.pth"), "onnx", folder / "ckpt.onnx")
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with nothing in it but a checkpoint, ckpt.pth."""
    torch.save({"model": trained().state_dict()}, tmp_path / "ckpt.pth")
    return tmp_path


@pytest.fixture
def exported(folder, proven) -> Path:
    """Its ckpt.onnx, proven already."""
    return Path(shutil.copy(proven / "ckpt.onnx", folder))


@pytest.fixture
def checkpoint(folder) -> Checkpoint:
    return read_checkpoint(folder / "ckpt.pth")


@pytest.fixture(scope="session")
def square(tmp_path_factory) -> Checkpoint:
    """A square network that is told how its pictures are normalised."""
    path = tmp_path_factory.mktemp("square") / "ckpt.pth"
    torch.save({"model": trained(SQUARE).state_dict()}, path)
    return read_checkpoint(path, preprocessing="mean 0.4 0.5 0.6, std 0.2 0.25 0.3")


@pytest.fixture(scope="session")
def pixels_onnx(square) -> Path:
    """Its artifact that takes bytes and gives probabilities."""
    path = square.path.with_suffix(".onnx")
    pipeline.export(square, "onnx", path, options=BOTH)
    return path


@pytest.fixture(scope="session")
def form() -> Int8Form:
    """The int8 form of a network."""
    return int8_form()


@pytest.fixture(scope="session")
def plain(form) -> onnx.ModelProto:
    """The form in float."""
    return form.unrounded()


@pytest.fixture(scope="session")
def quantized(form) -> onnx.ModelProto:
    """The form, rounded."""
    return rounded(form, noise(8))
