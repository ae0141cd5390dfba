"""The errors and their exit codes, as one tree.

    LevitDeployError                 70   base class, never raised itself
    ├── VerificationError             1   the artifact does not compute the same function
    ├── UsageError                    2   the options make no sense
    ├── InputError                    3   the input is malformed, unsupported or ambiguous
    │   ├── CheckpointError               the same for a checkpoint
    │   └── ArtifactError                 the same for an artifact
    ├── UnsafeInputError              4   reading the input could run code
    ├── OutputError                   5   the output could not be written
    └── BackendError                  6   a runtime crashed or a resource ran out

A message is one paragraph for the user: the finding, the expectation and the next step.
"""

import re


class LevitDeployError(Exception):
    """Base class, with the ``exit_code`` of the command line."""

    exit_code = 70


class VerificationError(LevitDeployError):
    """The artifact differs from the reference by more than the error budget.

    ``evidence`` holds the figures (a ``Verification``) if they were measured.
    """

    exit_code = 1

    def __init__(self, message: str, evidence: object = None) -> None:
        super().__init__(message)
        self.evidence = evidence


class UsageError(LevitDeployError):
    """Options that are malformed, or contradict each other or the input."""

    exit_code = 2


class InputError(LevitDeployError):
    """An input file that is malformed, unsupported or ambiguous."""

    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint that cannot be read as exactly one LeViT."""


class ArtifactError(InputError):
    """A file that is not an artifact this tool can run."""


class UnsafeInputError(LevitDeployError):
    """An input that can only be read by running code from it."""

    exit_code = 4


class OutputError(LevitDeployError):
    """A destination that cannot or must not be written."""

    exit_code = 5


class BackendError(LevitDeployError):
    """A runtime that crashed or refused a batch, or a machine out of memory."""

    exit_code = 6


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out. torch raises a bare RuntimeError for it."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


_OPENVINO = re.compile(r"Exception from |Check '.*' failed at |FrontEnd API failed ")  # places
_UNKNOWN = re.compile(r"-- (No conversion rule found .*)")
_TORCHSCRIPT = "The following operation failed in the TorchScript interpreter."
_RAISED = re.compile(r"[\w.]+: (.+)")  # not indented, unlike the code quoted before it


def first_line(error: BaseException) -> str:
    """The message of an exception, short enough for one sentence."""
    lines = str(error).strip().splitlines()
    if lines[:1] == [_TORCHSCRIPT]:  # the cause comes after two tracebacks
        lines = [match[1] for match in map(_RAISED.fullmatch, lines) if match] or lines
    if lines and lines[0].startswith("Exception from "):  # OpenVINO's
        lines = [line for line in lines if not _OPENVINO.match(line)]
        lines = [match[1] for match in map(_UNKNOWN.fullmatch, lines) if match] or lines
    return lines[0].rstrip(".") if lines else type(error).__name__
