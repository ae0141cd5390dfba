"""The names of artifacts, after their checkpoints."""

from pathlib import Path

_INNER = (".pth", ".pt", ".ckpt", ".bin")  # before .tar, .zip and the like


def beside(checkpoint: Path, suffix: str) -> Path:
    """The checkpoint's path with another suffix, for a folder with one more.

    'best.pth.tar', as timm names it, is 'best' with two suffixes.
    """
    if checkpoint.is_dir():
        named = checkpoint if checkpoint.name not in ("", "..") else checkpoint.resolve()
        return named.parent / (named.name + suffix)
    name = Path(checkpoint.stem)
    return checkpoint.parent / ((name.stem if name.suffix in _INNER else name.name) + suffix)
