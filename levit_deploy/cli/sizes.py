"""Sizes as you type them."""

from levit_deploy.choices import BatchSize
from levit_deploy.errors import UsageError


def parsed_image_size(option: str, text: str | None) -> tuple[int, int] | None:
    """Height and width; UsageError if an option is neither N nor HxW."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(map(_is_count, sides)):
        raise UsageError(
            f"{option} {text} is no size. Expected pixels, as in 224, or height and width, as "
            "in 192x256."
        )
    return int(sides[0]), int(sides[-1])


def parsed_batch_size(text: str) -> BatchSize | None:
    """A batch size, None for 'auto'; UsageError if --batch-size is none."""
    if text == "auto":
        return None
    if text == "dynamic":
        return "dynamic"
    if not _is_count(text):
        raise UsageError(
            f"--batch-size {text} is no size. Expected a positive number of images, or dynamic."
        )
    return int(text)


def parsed_opset(text: str) -> int | None:
    """A number, or None for 'auto'; raise UsageError for anything else."""
    if text == "auto":
        return None
    if not _is_count(text):
        raise UsageError(f"--opset {text} is no operator set. Expected a number as in 17, or auto.")
    return int(text)


def _is_count(text: str) -> bool:
    """Whether a text is a positive number of pixels or images, and a sensible one."""
    return text.isascii() and text.isdecimal() and len(text) < 7 and int(text) > 0
