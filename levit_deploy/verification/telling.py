"""Find images that tell of every block, if the ordinary ones do not.

Attention that is decided gives all queries the same value. Behind it, all tokens are then alike,
and no order of tokens, no bias and no softmax over another axis makes a difference. Nor does a
scale, as long as the same key wins. A trained network is rarely so. If one is, on most ordinary
images, others are searched: louder, quieter, and blends of two, between which the attention goes
from one key to another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from levit_deploy.arrays import Images
from levit_deploy.cost import count_macs
from levit_deploy.model import Attention, AttentionSubsample, MeanPool
from levit_deploy.passes.replace import copied
from levit_deploy.verification.inputs import Case
from levit_deploy.verification.original import Original

FIRST, ENOUGH = (3, 8), 3 / 8  # ordinary images looked at, and the share that has to tell
TELLS = 1e-5  # a change, relative to what changes: a hundred steps of float32
ROUNDS, AT_ONCE, MACS = 24, 16, 5e9  # of a search, and what it may cost
KEPT, FEWEST, MOST = 4, 4, 32  # images for each lack, and in all

Figures = npt.NDArray[np.float32]  # (images, probes)


def telling_case(original: Original, ordinary: Case, seed: int) -> Case | None:
    """Images that tell of the blocks of which ordinary ones do not; None if those do.

    The images are as ``ordinary`` gives them.
    """
    probes = _Probes(original, ordinary.draw(1).dtype == np.uint8)
    affordable = MACS // count_macs(original.config)
    pool = ordinary.draw(int(np.clip(affordable, *FIRST)))
    figures = probes(pool)
    lacking = np.flatnonzero((figures >= TELLS).mean(0) < ENOUGH)
    if not len(lacking):
        return None
    rng = np.random.default_rng(seed)
    for _ in range(int(min(ROUNDS, 1 + affordable // AT_ONCE))):
        pool = np.concatenate([pool, _candidates(pool, rng)])
        figures = np.concatenate([figures, probes(pool[len(figures) :])])
        best = np.argsort(-figures[:, lacking], axis=0, kind="stable")[:KEPT]
        first = list(dict.fromkeys(best.flatten().tolist()))  # the best of each lack come first
        first = first[: int(np.clip(affordable, FEWEST, MOST))]
        pool, figures = pool[first], figures[first]
    return Case("telling", lambda n: pool[:n], (len(pool),) * 3)


def _candidates(pool: Images, rng: np.random.Generator) -> Images:
    """Blends of two images, one of which may be noise or black, and may be louder or quieter."""
    shape = pool.shape[1:]
    middle, step = (127.5, 64.0) if pool.dtype == np.uint8 else (0.0, 1.0)
    images = []
    for _ in range(AT_ONCE):
        one, two = (pool[rng.integers(len(pool))] - middle for _ in range(2))
        fresh = rng.standard_normal(shape) * step
        other = (two, fresh, fresh, 0 * fresh)[rng.integers(4)]
        blend = one + rng.uniform(-0.5, 1.5) * (other - one)
        images.append(middle + blend * 10 ** rng.normal(0, 0.3))
    stacked = np.stack(images)
    if pool.dtype == np.uint8:
        images_of_bytes: Images = np.rint(stacked).clip(0, 255).astype(np.uint8)
        return images_of_bytes
    return np.asarray(stacked.clip(-100, 100), np.float32)


class _Probes:
    """What tells of a block: its tokens differ, and its attention is not decided.

    Calling it gives, for each image, the difference between the tokens before each attention and
    the pooling, and what each attention changes by if its scores are halved: (images, probes).
    """

    def __init__(self, original: Original, of_bytes: bool) -> None:
        self._model = copied(original.model)  # for the hooks
        self._normalise = original.transform.normalise if of_bytes else None

    def __call__(self, images: Images) -> Figures:
        figures: list[Figures] = []

        def before(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            (x,) = given
            if x.dim() == 3 and x.shape[1] > 1:
                figures.append(_relative(x - x.mean(1, keepdim=True), x))

        def behind(module: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
            halved = module.scale.register_forward_hook(lambda _module, _given, scores: scores / 2)
            figures.append(_relative(module.forward(*given) - out, out))
            halved.remove()

        hooks: list[Any] = []
        for module in self._model.modules():
            if isinstance(module, Attention | AttentionSubsample | MeanPool):
                hooks.append(module.register_forward_pre_hook(before))
            if isinstance(module, Attention | AttentionSubsample) and module.tokens > 1:
                hooks.append(module.register_forward_hook(behind))
        given = images if self._normalise is None else self._normalise(images, dtype=np.float32)
        try:
            with torch.inference_mode():
                self._model(torch.from_numpy(given))
        finally:
            for hook in hooks:
                hook.remove()
        return (
            np.nan_to_num(np.stack(figures, 1))
            if figures
            else np.ones((len(images), 0), np.float32)
        )


def _relative(change: Tensor, x: Tensor) -> Figures:
    """The RMS of a change of each image, relative to its own."""
    of_image = tuple(range(1, x.dim()))
    change, x = (tensor.square().mean(of_image).sqrt() for tensor in (change, x))
    share: Figures = (change / x.clamp(min=1e-30)).numpy()
    return share
