"""A contest of candidates: make each, time all in turns, and prove the best.

A rounded candidate is first rounded on noise, in seconds: that tells its speed. If it is the
fastest, it is rounded on pictures, judged and proven, which takes a minute. If layers are left in
float for that, it is timed again. If the guard refuses it, the next best takes its place.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from levit_deploy.bench.benchmark import pinned, random_images
from levit_deploy.choices import Input, Layout, require_one_of
from levit_deploy.errors import LevitDeployError, VerificationError, first_line
from levit_deploy.model import LeViT
from levit_deploy.optimization.candidate import Candidate
from levit_deploy.optimization.entrant import Entrant
from levit_deploy.optimization.race import (
    RISK,
    Standing,
    Times,
    is_slower,
    log_ratios,
    race,
)
from levit_deploy.optimization.rules import Limits
from levit_deploy.pictures.split import Judging, judging_pictures
from levit_deploy.pipeline import Published, proven_file, quantize
from levit_deploy.quantization.on_noise import file_to_time
from levit_deploy.quantization.outcome import refuse_if_nothing_is_judged, refuse_loss
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.runtime.sessions import filled
from levit_deploy.targets.formats import FORMATS
from levit_deploy.targets.load import open_isolated
from levit_deploy.text import counted
from levit_deploy.verification.accuracy import accuracy, top1
from levit_deploy.verification.inputs import Case
from levit_deploy.verification.original import Originals

log = logging.getLogger(__name__)

MAKING = 0.5  # of the time limit: later, no more candidates are made
RACING, LEAST_RACING = 0.75, 0.1
NO_TIME = "--time-limit leaves no time to make it."


class Contest:
    """Candidates in a folder, from the first to the proven winner.

    ``run`` may be interrupted: its attributes then tell what is known. ``entrants`` are by label,
    the simpler first. ``times`` are those of files, in seconds a batch of ``batch_size`` images of
    noise. ``standing`` is that of the last race, and ``winner`` a label.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        limits: Limits,
        batch_size: int,
        folder: Path,
        *,
        extra: tuple[Case, ...] = (),
        progress: Callable[[str], object] = lambda _doing: None,
    ) -> None:
        self.limits, self.extra, self.progress = limits, extra, progress
        self.start = time.monotonic()
        self.times: Times = {}
        self.standing: Standing | None = None
        self.winner: str | None = None
        self.entrants = {
            c.label: Entrant(candidate=c, path=folder / c.file_name) for c in candidates
        }
        config = candidates[0].plan.checkpoint.config
        self._images = random_images(config, batch_size)
        self._networks: dict[Layout, LeViT] = {}
        self._originals = Originals()

    def run(self) -> None:
        """Find the winner, and prove it; leave ``winner`` None if nothing keeps the limits."""
        try:
            self._make_all()
            self._networks.clear()
            if self.limits.all:
                self._prove_all(self._running())
            self.winner = self._proven_best()
            self._prove_all(self._fastest_exact())
        finally:
            for entrant in self.entrants.values():
                entrant.close()

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self.start

    def _spent(self, share: float) -> bool:
        return self.seconds > share * self.limits.time_limit

    def _running(self) -> list[Entrant]:
        """Those that are not out, the simpler first."""
        return [entrant for entrant in self.entrants.values() if entrant.state is None]

    def _make_all(self) -> None:
        """Make the files, those that take long last."""
        took: dict[str, float] = {}  # the last of each runtime, in seconds
        order = sorted(self.entrants.values(), key=lambda e: _takes_long(e.candidate))
        for number, entrant in enumerate(order):
            candidate, start = entrant.candidate, self.seconds
            until = start + took.get(candidate.runtime, 0)
            if number and until > MAKING * self.limits.time_limit:
                entrant.out("left out", NO_TIME)
                continue
            self.progress(f"making {candidate.label}, {number + 1} of {len(order)}")
            self._attempt(entrant, partial(self._make, entrant))
            if entrant.state is None:
                with pinned(self.limits.threads):
                    self._attempt(entrant, partial(entrant.start, self.limits.threads))
            took[candidate.runtime] = self.seconds - start

    def _make(self, entrant: Entrant) -> None:
        plan = entrant.candidate.plan
        if plan.layout not in self._networks:
            self._networks[plan.layout] = plan.network()
        network = self._networks[plan.layout]
        data = file_to_time(plan.target, network, plan.provenance, plan.options)
        entrant.path.write_bytes(data)
        self._measure_size(entrant)

    def _measure_size(self, entrant: Entrant) -> None:
        entrant.size_bytes = entrant.path.stat().st_size
        megabytes, most = entrant.size_bytes / 1e6, self.limits.max_size
        if most is not None and megabytes > most:
            entrant.out("excluded", f"Its {megabytes:.2f} MB are more than --max-size {most:g}.")

    def _attempt(self, entrant: Entrant, work: Callable[[], None]) -> None:
        """Some work on an entrant; if it fails, the entrant is out."""
        try:
            work()
        except Exception as error:  # the runtimes' exceptions share no base class
            log.info("%s failed", entrant.label, exc_info=True)
            ours = isinstance(error, LevitDeployError)
            reason = str(error) if ours else f"{type(error).__name__}: {first_line(error)}."
            refused = isinstance(error, VerificationError)
            reason = reason.replace(str(entrant.path), "it")  # which has no name yet
            entrant.out("refused" if refused else "failed", reason)

    def _proven_best(self) -> str | None:
        """The simplest of those that are as fast as the fastest, once it is proven."""
        while self._running():
            self._race()
            best = self._best()
            if best is None:  # those that could win are out by now: look among the others
                continue
            if best.published is not None:
                return best.label
            self._attempt(best, partial(self._prove, best))
        return None

    def _race(self) -> None:
        """Time those that could win, which leaves ``standing``."""
        running = {entrant.label: entrant for entrant in self._could_win()}

        def told(rounds: int, left: int) -> None:
            self.progress(f"timing {counted(left, 'candidate')}, round {rounds}")

        # rounding on pictures may have taken the time, and what it gave has to be timed yet
        until = max(RACING, self.seconds / self.limits.time_limit + LEAST_RACING)
        with pinned(self.limits.threads):  # the processes that it starts
            self.standing = race(
                {label: partial(self._seconds, entrant) for label, entrant in running.items()},
                self.times,
                time_is_up=lambda: self._spent(until),
                dropped=lambda label: running[label].close(),
                progress=told,
            )

    def _could_win(self) -> list[Entrant]:
        """All but those that were slower than an exact one, which no guard refuses.

        The baseline stays, as the speeds are told against it.
        """
        running = self._running()
        timed = [e for e in running if self.times.get(e.label)]
        exact = [e.label for e in timed if e.candidate.is_exact]
        if not exact:
            return running
        fastest = min(exact, key=lambda label: statistics.median(self.times[label].values()))

        def is_out(entrant: Entrant) -> bool:
            logs = log_ratios(self.times, entrant.label, fastest)
            return bool(len(logs)) and is_slower(logs, RISK / len(running))

        return [e for e in running if e not in timed or e is running[0] or not is_out(e)]

    def _seconds(self, entrant: Entrant) -> float:
        """The time of a batch, after another one: the others have emptied the caches."""
        taken = [math.nan]

        def run() -> None:
            artifact = entrant.opened or self._open(entrant)
            images = self._images[artifact.interface.input]
            artifact.seconds(images)
            taken[0] = artifact.seconds(images)

        self._attempt(entrant, run)
        return taken[0]

    def _open(self, entrant: Entrant) -> Artifact:
        if entrant.open is None:
            entrant.start(self.limits.threads)
        assert entrant.open is not None
        artifact = entrant.open()
        entrant.opened, entrant.load_s = artifact, artifact.load_s
        for _ in range(3):
            artifact.seconds(self._images[artifact.interface.input])
        return artifact

    def _best(self) -> Entrant | None:
        """The simplest of the level ones that is fast enough; the others that are not are out."""
        most = self.limits.max_latency
        if most is not None:
            for entrant in self._running():
                taken = 1000 * self._median(entrant)
                if taken > most:
                    reason = f"Its {taken:.2f} ms are more than --max-latency {most:g}."
                    entrant.out("excluded", reason)
        if self.standing is None:
            return None
        # of two that no more time can tell apart, the faster so far is the better guess
        equal = self.standing.level if self.standing.settled else self.standing.told
        return next((e for e in self._running() if e.label in equal), None)

    def _median(self, entrant: Entrant) -> float:
        return statistics.median(self.times[entrant.label].values())

    def _prove(self, entrant: Entrant) -> None:
        """Prove a file; a rounded one is rounded on pictures first.

        If layers of it had to stay float, it is another form than the one that was timed.
        """
        candidate, int8 = entrant.candidate, self.limits.int8
        plan = candidate.plan
        entrant.close()
        if not candidate.is_rounded:
            self.progress(f"proving {candidate.label}")
            published = proven_file(plan, entrant.path, extra=self.extra, originals=self._originals)
            if not candidate.is_exact:
                self.progress(f"judging {candidate.label}")
                published = self._judged(published, entrant)
            entrant.published = published
            return
        assert int8 is not None
        entrant.published = quantize(
            plan.checkpoint,
            entrant.path,
            replace(int8, cpu=candidate.cpu),
            format=require_one_of("format", plan.target.name, FORMATS),
            precision=plan.precision,
            head=plan.head,
            layout=plan.layout,
            options=plan.options,
            runtime=candidate.onnx_runtime,
            force=True,
            progress=lambda doing: self.progress(f"{candidate.label}: {doing}"),
            originals=self._originals,
        )
        quantization = entrant.published.quantization
        if quantization is None or quantization.left_in_float:
            self.times.pop(candidate.label, None)
        self._measure_size(entrant)

    def _judged(self, published: Published, entrant: Entrant) -> Published:
        """Judge a file in half precision by the guard for rounded ones, beside the original."""
        plan, int8 = entrant.candidate.plan, self.limits.int8
        assert int8 is not None
        checkpoint = plan.checkpoint

        def pictures(input: Input) -> Judging:
            return judging_pictures(
                Path(int8.images),
                checkpoint.transform,
                checkpoint.config.num_classes,
                input,
                checkpoint.labels,
                every=int8.confident,
            )

        given = pictures(plan.interface.input)
        with open_isolated(entrant.path) as artifact:
            original = self._originals.of(checkpoint, artifact)
            answers = top1(filled(artifact.run, artifact.batch_size), given)
        figures = accuracy(
            top1(original.run, pictures("float32")),
            answers,
            given,
            int8.max_drop,
            confident=int8.confident,
        )
        refuse_if_nothing_is_judged(figures, plan.precision)
        if figures.failures:
            refuse_loss(figures, plan.precision)
        return replace(published, verification=replace(published.verification, accuracy=figures))

    def _prove_all(self, entrants: Sequence[Entrant]) -> None:
        """Prove several, as far as the time allows."""
        for entrant in entrants:
            if entrant.published is None and not self._spent(RACING):
                self._attempt(entrant, partial(self._prove, entrant))

    def _fastest_exact(self) -> Sequence[Entrant]:
        """The fastest in fp32: the winner should be seen beside it."""
        exact = [e for e in self._running() if e.candidate.is_exact and self.times.get(e.label)]
        return [min(exact, key=self._median)] if exact and self.winner else []


def _takes_long(candidate: Candidate) -> bool:
    """Whether a form takes a minute to make: ExecuTorch lowers it, or a compiler runs."""
    return candidate.runtime == "executorch" or candidate.plan.options.compile
