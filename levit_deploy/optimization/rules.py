"""The conditions of an optimization: the artifact that you want, and the limits that it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from levit_deploy.choices import Head, Input, Output
from levit_deploy.quantization.quantize import Int8Options


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The head and the ends of the artifact, and the batch that it is timed on."""

    head: Head = "mean"
    input: Input = "float32"
    output: Output = "logits"
    batch_size: int = 1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of an optimization.

    ``max_latency`` is in milliseconds a batch, ``max_size`` in megabytes, ``time_limit`` in
    seconds. ``int8`` is None if there are no pictures to judge rounded networks by. With ``all``,
    every candidate is rounded, judged and proven, and not only those that matter.
    """

    threads: int
    time_limit: float
    int8: Int8Options | None = None
    max_latency: float | None = None
    max_size: float | None = None
    all: bool = False
