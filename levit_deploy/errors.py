"""Every way a command can end, as one tree.

    LevitDeployError                 70   base class; never raised itself
    ├── VerificationError             1   the artifact does not compute the same function
    ├── UsageError                    2   the command line asks for something that makes no sense
    ├── InputError                    3   the input is malformed, unsupported or ambiguous
    │   ├── CheckpointError               ... a checkpoint
    │   └── ArtifactError                 ... an artifact
    ├── UnsafeInputError              4   reading the input could run code
    ├── OutputError                   5   the output could not be written
    └── BackendError                  6   a runtime crashed or a resource ran out

A message is one paragraph for the user: what was found, what was expected, what to do next.
"""

import re


class LevitDeployError(Exception):
    """Base class; ``exit_code`` is what the command line exits with."""

    exit_code = 70


class VerificationError(LevitDeployError):
    """The artifact differs from the reference by more than the error budget.

    ``evidence`` holds the figures (a ``Verification``) where it came to measuring.
    """

    exit_code = 1

    def __init__(self, message: str, evidence: object = None) -> None:
        super().__init__(message)
        self.evidence = evidence


class UsageError(LevitDeployError):
    """Options that contradict each other or the checkpoint."""

    exit_code = 2


class InputError(LevitDeployError):
    """An input file that is malformed, unsupported or ambiguous."""

    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint that cannot be read as exactly one LeViT."""


class ArtifactError(InputError):
    """A file that is not an artifact this tool can run."""


class UnsafeInputError(LevitDeployError):
    """An input that could only be read by running code it brings along."""

    exit_code = 4


class OutputError(LevitDeployError):
    """A destination that cannot, or must not, be written."""

    exit_code = 5


class BackendError(LevitDeployError):
    """A runtime that crashed, or a machine out of memory."""

    exit_code = 6


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out; torch's own is a bare RuntimeError."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


_TORCHSCRIPT = "The following operation failed in the TorchScript interpreter."
_RAISED = re.compile(r"[\w.]+: (.+)")  # and not indented, as the code quoted before it is


def first_line(error: BaseException) -> str:
    """What an exception says, short enough for one sentence of a message."""
    lines = str(error).strip().splitlines()
    if lines[:1] == [_TORCHSCRIPT]:  # the cause comes behind two tracebacks
        lines = [match[1] for match in map(_RAISED.fullmatch, lines) if match] or lines
    return lines[0].rstrip(".") if lines else type(error).__name__
