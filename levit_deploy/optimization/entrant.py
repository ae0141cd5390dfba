"""A candidate in a contest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from levit_deploy.optimization.candidate import Candidate
from levit_deploy.optimization.outcome import State
from levit_deploy.pipeline import Published
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.load import started


@dataclass(kw_only=True)
class Entrant:
    """A candidate on its way: what is known of it so far.

    ``state`` and ``reason`` are those of one that is out. ``opened`` runs the file in a process,
    which is started before ``open`` loads the file in it.
    """

    candidate: Candidate
    path: Path
    state: State | None = None
    reason: str = ""
    size_bytes: int | None = None
    load_s: float | None = None
    published: Published | None = None
    open: Callable[[], Artifact] | None = None
    opened: Artifact | None = None
    process: ExitStack = field(default_factory=ExitStack)

    @property
    def label(self) -> str:
        """The candidate's."""
        return self.candidate.label

    def out(self, state: State, reason: str) -> None:
        """Take it out of the contest."""
        self.state, self.reason = state, reason
        self.close()

    def start(self, threads: int | None) -> None:
        """Start its process, which loads its runtime meanwhile."""
        self.open = self.process.enter_context(started(self.path, threads))

    def close(self) -> None:
        """End its process."""
        self.process.close()
        self.open = self.opened = None
