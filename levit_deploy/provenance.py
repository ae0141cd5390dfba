"""The origin of an artifact, written into it: the same few strings in every format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from levit_deploy._version import __version__
from levit_deploy.choices import PRECISIONS, Precision, known
from levit_deploy.config import LeViTConfig
from levit_deploy.interface import DEFAULT, SINGLE_LABEL, Interface
from levit_deploy.pictures.labels import in_order
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing
from levit_deploy.pictures.transform import Transform

TOOL = "levit-deploy"
THIS_VERSION = f"{TOOL} {__version__}"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The origin of an artifact.

    ``config`` is the checkpoint's architecture. ``head`` is 'mean' (of one head or two), 'class',
    'distill', or 'none' for features. ``layout`` is 'tokens' or 'spatial'. ``weights`` is the set
    of weights loaded. ``assumed`` lists in words the facts that the checkpoint lacks, and
    ``proven_if`` the decisive ones. ``reading`` tells the figures of the author's logits, if the
    network was held to them. ``passed_over`` lists the tensors of the file that the network does
    not compute with. ``preprocessing`` turns pictures into inputs. ``precision`` is the number
    format inside, and ``accuracy`` tells in words how much int8 loses on pictures. ``runtime`` is
    the one that the artifact is for. ``labels`` are the names of the classes, none if they are
    unknown. ``problem_type``, one of PROBLEM_TYPES, is the meaning of the logits. ``processor``
    is the kind that native code is for. ``written_with`` has the versions of the libraries that
    decide how the file is written.
    """

    checkpoint_sha256: str
    config: LeViTConfig
    head: str
    layout: str
    weights: str = "model"
    assumed: tuple[str, ...] = ()
    proven_if: tuple[str, ...] = ()
    reading: str = ""
    passed_over: tuple[str, ...] = ()
    preprocessing: Preprocessing = IMAGENET
    precision: Precision = "fp32"
    runtime: str = "onnxruntime"
    accuracy: str = ""
    interface: Interface = DEFAULT
    labels: tuple[str, ...] = ()
    problem_type: str = SINGLE_LABEL
    processor: str = ""
    written_with: str = ""

    @property
    def transform(self) -> Transform:
        """How a picture becomes an input."""
        return Transform(self.config.image_size, self.config.in_channels, self.preprocessing)

    def to_metadata(self) -> dict[str, str]:
        """As strings, for ONNX ``metadata_props``, torch's extra files or safetensors."""
        metadata = {
            "tool": THIS_VERSION,
            "checkpoint_sha256": self.checkpoint_sha256,
            "config": self.config.to_json(),
            "head": self.head,
            "layout": self.layout,
            "weights": self.weights,
            "assumed": json.dumps(self.assumed),
            "proven_if": json.dumps(self.proven_if),
            "reading": self.reading,
            "passed_over": json.dumps(self.passed_over),
            "preprocessing": self.preprocessing.to_json(),
            "precision": self.precision,
            "runtime": self.runtime,
            "accuracy": self.accuracy,
            "input": self.interface.input,
            "output": self.interface.output,
            "labels": json.dumps(self.labels, ensure_ascii=False),
            "problem_type": self.problem_type,
        }
        more = {"processor": self.processor, "written_with": self.written_with}
        return metadata | {key: value for key, value in more.items() if value}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Provenance:
        """Read ``to_metadata``'s strings back; KeyError, TypeError or ValueError if damaged."""
        if not all(isinstance(metadata[key], str) for key in metadata):
            raise TypeError("metadata must be strings")
        return cls(
            checkpoint_sha256=metadata["checkpoint_sha256"],
            config=LeViTConfig.from_json(metadata["config"]),
            head=metadata["head"],
            layout=metadata["layout"],
            weights=metadata["weights"],
            assumed=tuple(json.loads(metadata["assumed"])),
            proven_if=tuple(json.loads(metadata.get("proven_if", "[]"))),
            reading=metadata.get("reading", ""),
            passed_over=tuple(json.loads(metadata.get("passed_over", "[]"))),
            preprocessing=(
                Preprocessing.from_json(metadata["preprocessing"])
                if "preprocessing" in metadata  # not in the first files that were fused
                else IMAGENET
            ),
            precision=claimed_precision(metadata),
            runtime=metadata.get("runtime", "onnxruntime"),
            accuracy=metadata.get("accuracy", ""),
            interface=Interface.from_metadata(metadata),
            labels=in_order(json.loads(metadata.get("labels", "[]"))),
            problem_type=metadata.get("problem_type", SINGLE_LABEL),
            processor=metadata.get("processor", ""),
            written_with=metadata.get("written_with", ""),
        )


def claimed_precision(metadata: Mapping[str, str]) -> Precision:
    """The precision in an artifact's metadata; ValueError if it is unknown."""
    claimed = metadata.get("precision", "fp32")  # the first artifacts had no other
    if (precision := known(claimed, PRECISIONS)) is not None:
        return precision
    raise ValueError(f"the precision {claimed!r} is not one of {', '.join(PRECISIONS)}")


def is_ours(metadata: Mapping[str, str]) -> bool:
    """Whether this tool wrote the file with this metadata."""
    return metadata.get("tool", "").startswith(f"{TOOL} ")
