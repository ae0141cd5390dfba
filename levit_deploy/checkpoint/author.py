"""Hold the reading of a checkpoint to logits that its author's own code computed.

The proof of an artifact starts from our reading of the tensors, so a wrong reading would be proven.
A few images with the author's logits close that hole.
"""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.checkpoint.families import official, vit_pytorch
from levit_deploy.checkpoint.strict import load_strictly
from levit_deploy.choices import ACTIVATIONS
from levit_deploy.config import Grid, LeViTConfig
from levit_deploy.errors import CheckpointError, InputError, first_line
from levit_deploy.model import LeViT
from levit_deploy.passes.replace import copied
from levit_deploy.regular_files import open_regular
from levit_deploy.text import counted

MAX_BYTES = 1 << 28  # 400 images of 224x224
AT_ONCE = 8  # images, as float64 needs much memory
USUAL_EPS = (1e-5, 1e-3, 1e-6)  # PyTorch's, TensorFlow's, and that of LayerNorm in ViTs

# An author computes the same function in another order, and on another processor. So the errors are
# another draw from the distribution of the network's own in float32, of few numbers at times.
RMSE_FACTOR, MAX_FACTOR, FLOOR_ULPS = 4.0, 8.0, 8.0


@dataclass(frozen=True)
class AuthorsLogits:
    """Images as the network takes them, float32 (n, channels, height, width), and their logits."""

    path: Path
    images: Images
    logits: FloatArray

    @property
    def image_size(self) -> Grid:
        """(height, width) of the images."""
        height, width = self.images.shape[2:]
        return height, width


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The figures of a reading that computes the author's logits.

    ``head`` gave them: 'mean', 'class' or 'distill'. ``path`` is the file of ``images`` images.
    """

    path: Path
    images: int
    head: str
    rmse: float
    allowed_rmse: float
    max_error: float
    allowed_max_error: float

    def __str__(self) -> str:
        return (
            f"checked against its author's logits in {self.path.name}: "
            f"{counted(self.images, 'image')}, RMSE {self.rmse:.1e} of {self.allowed_rmse:.1e} "
            "allowed"
        )

    @property
    def fits(self) -> bool:
        """Whether the errors are as small as those of one function computed twice."""
        return self.rmse <= self.allowed_rmse and self.max_error <= self.allowed_max_error


def authors_logits(given: str | Path | Mapping[str, Any]) -> AuthorsLogits:
    """Read the logits at a path, or take arrays that are at hand.

    Raises InputError for anything else than ``input`` and ``logits``.
    """
    if not isinstance(given, Mapping):
        return read_authors_logits(Path(given))
    try:
        images, logits = (np.asarray(given[name]) for name in ("input", "logits"))
        _require_arrays(images, logits)
    except Exception as error:  # of whatever is given
        raise InputError(
            f"expect= holds no author's logits: {first_line(error)}. Expected input, float32 (n, "
            "channels, height, width), and logits, (n, classes), as arrays."
        ) from error
    return AuthorsLogits(Path("expect="), images.astype(np.float32), logits)


def read_authors_logits(path: Path) -> AuthorsLogits:
    """Read an ``.npz`` with ``input`` and ``logits``. Raises InputError for any other file."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"its arrays have more than {MAX_BYTES} bytes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                if missing := {"input", "logits"} - set(arrays.files):
                    raise ValueError(f"it has no {' and no '.join(sorted(missing))}")
                images, logits = np.asarray(arrays["input"]), np.asarray(arrays["logits"])
        with np.errstate(over="ignore"):
            images = images.astype(np.float32) if images.dtype.kind == "f" else images
        _require_arrays(images, logits)
    except OSError as error:
        raise InputError(
            f"--expect {path} cannot be read: {error.strerror or error}. Check the path."
        ) from error
    except Exception as error:  # a damaged archive can make the readers raise anything
        raise InputError(
            f"--expect {path} does not hold an author's logits: {first_line(error)}. Expected "
            "an .npz with input, float32 (n, channels, height, width), and logits, (n, classes). "
            "Write it by numpy.savez(path, input=images, logits=model.eval()(images))."
        ) from error
    return AuthorsLogits(path, images, logits)


def _require_arrays(images: npt.NDArray[Any], logits: npt.NDArray[Any]) -> None:
    """Raise ValueError for other shapes, other numbers than floats, and for NaN or infinity."""
    for name, array, rank in (("input", images, 4), ("logits", logits, 2)):
        if array.ndim != rank or array.size == 0 or array.dtype.kind != "f":
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has NaN or infinity")
    if len(images) != len(logits):
        raise ValueError(f"{len(images)} images and {len(logits)} rows of logits")


def require_authors_function(
    model: LeViT,
    config: LeViTConfig,
    expected: AuthorsLogits,
    *,
    family: str,
    state: Mapping[str, Tensor] | None = None,
) -> Checked:
    """Return the figures of a reading that computes the author's logits, by one of its heads.

    ``state`` has the tensors under canonical names, to try other readings of them. Raises
    CheckpointError, with the figures and the reading that fits, if this one does not.
    """
    _require_same_shapes(config, expected)
    checked = _checked(model, expected)
    if checked.fits:
        return checked
    readings = [] if state is None else _other_readings(config, family)
    few = replace(expected, images=expected.images[:AT_ONCE], logits=expected.logits[:AT_ONCE])
    for reading in readings:
        other = load_strictly(config.replace(**reading.changes), state or {})
        if _checked(other, few).fits:
            advice = f"They fit with {' '.join(reading.options)}. Give that."
            break
    else:
        tried = "activations, scales of the attention biases and eps, with either head"
        none = f"None of {len(readings)} other readings fits, by {tried}. " if readings else ""
        advice = (
            f"{none}Check that the logits are of these weights in evaluation mode, and computed in "
            "float32 on a CPU, as a GPU may round to TF32."
        )
    raise CheckpointError(
        f"The network as it was read does not compute the logits of {expected.path}: over "
        f"{counted(checked.images, 'image')} the RMSE is {checked.rmse:.1e}, and "
        f"{checked.allowed_rmse:.1e} is allowed. {advice}"
    )


def _require_same_shapes(config: LeViTConfig, expected: AuthorsLogits) -> None:
    """Raise CheckpointError if the images or the logits are of another network."""
    shapes = {
        "images": (expected.images.shape[1:], (config.in_channels, *config.image_size)),
        "logits": (expected.logits.shape[1:], (config.num_classes or config.stages[-1].dim,)),
    }
    for name, (given, own) in shapes.items():
        if given != own:
            raise CheckpointError(
                f"{expected.path} has {name} of the shape {given}, and the network has {own}. "
                "Expected those of this network at this image size. Correct the file, or the "
                "options for the size."
            )


@dataclass(frozen=True)
class _Reading:
    """Another reading of the same tensors: the config's changes, and the options that tell it."""

    changes: Mapping[str, object]
    options: tuple[str, ...]


def _other_readings(config: LeViTConfig, family: str) -> list[_Reading]:
    """The readings that releases and training codes compute, the one with fewest options first."""
    values = sorted({config.bn_eps, *USUAL_EPS}, key=lambda value: value != config.bn_eps)
    readings = [
        _Reading(
            {**reading.changes, "bn_eps": eps, "ln_eps": eps},
            reading.options + (() if eps == config.bn_eps else (f"--eps {eps:g}",)),
        )
        for reading in _arithmetics(family)
        for eps in values
    ]
    others = [reading for reading in readings if config.replace(**reading.changes) != config]
    return sorted(others, key=lambda reading: len(reading.options))


def _arithmetics(family: str) -> Iterator[_Reading]:
    yield _Reading({}, ())
    for activation in ACTIVATIONS:
        option, changes = f"--activation {activation}", {"activation": activation}
        if family == vit_pytorch.FAMILY:
            for version, (power, usual) in vit_pytorch.ARITHMETIC.items():
                release = f"--trained-with vit-pytorch=={'.'.join(map(str, version))}"
                options = (release,) if activation == usual else (release, option)
                yield _Reading({**changes, "bias_over_scale": power}, options)
            continue
        yield _Reading(changes, (option,))
        if family == official.FAMILY:  # as timm computes under these names
            options = option, "--trained-with timm==0.6.13"
            yield _Reading({**changes, "attention_activation": "hardswish"}, options)


def _checked(model: LeViT, expected: AuthorsLogits) -> Checked:
    """The figures of the head that comes nearest."""
    reference = _logits(model, expected.images, torch.float64)
    own = _logits(model, expected.images, torch.float32)
    figures = [_figures(head, logits, own[head], expected) for head, logits in reference.items()]
    return min(figures, key=lambda each: each.rmse / each.allowed_rmse)


def _figures(
    head: str,
    reference: npt.NDArray[np.float64],
    own: npt.NDArray[np.float64],
    expected: AuthorsLogits,
) -> Checked:
    error, own_error = expected.logits - reference, own - reference
    ulp = np.abs(reference).max() * max(np.finfo(expected.logits.dtype).eps, 2.0**-23)
    return Checked(
        path=expected.path,
        images=len(expected.images),
        head=head,
        rmse=float(np.sqrt(np.mean(error**2))),
        allowed_rmse=float(max(RMSE_FACTOR * np.sqrt(np.mean(own_error**2)), FLOOR_ULPS * ulp)),
        max_error=float(np.abs(error).max()),
        allowed_max_error=float(max(MAX_FACTOR * np.abs(own_error).max(), 2 * FLOOR_ULPS * ulp)),
    )


def _logits(model: LeViT, images: Images, dtype: torch.dtype) -> dict[str, npt.NDArray[np.float64]]:
    """The logits of each head and of their mean, or the features of a network without one."""
    model = copied(model).to(dtype)
    parts: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for start in range(0, len(images), AT_ONCE):
            batch = torch.from_numpy(images[start : start + AT_ONCE]).to(dtype)
            for head, logits in _heads(model, model.forward_features(batch)).items():
                parts.setdefault(head, []).append(logits)
    return {head: torch.cat(logits).double().numpy() for head, logits in parts.items()}


def _heads(model: LeViT, features: Tensor) -> dict[str, Tensor]:
    logits: Tensor = model.head(features)
    if model.head_dist is None:
        return {"mean": logits}
    distilled: Tensor = model.head_dist(features)
    return {"mean": (logits + distilled) / 2, "class": logits, "distill": distilled}
