"""The candidates: every form of the network that the runtimes here can run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from levit_deploy import choices
from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import ROUNDED, Cpu, Precision, Runtime, require_one_of
from levit_deploy.errors import UsageError
from levit_deploy.extras import is_installed, require_extra
from levit_deploy.interface import Interface
from levit_deploy.optimization.rules import Wishes
from levit_deploy.targets.executorch import EXECUTORCH
from levit_deploy.targets.litert import LITERT
from levit_deploy.targets.onnx import ONNX, ONNX_FOR_OPENVINO
from levit_deploy.targets.onnx_opsets import opset_of
from levit_deploy.targets.plan import Plan, planned
from levit_deploy.targets.processor import has_any
from levit_deploy.targets.pt2 import PT2, compiled_here
from levit_deploy.targets.target import ExportOptions, Form, Target
from levit_deploy.targets.torchscript import TORCHSCRIPT


@dataclass(frozen=True)
class _Runtime:
    """The targets that a runtime runs, and the extra and module that it needs, if any."""

    targets: tuple[Target, ...]
    extra: str = ""
    module: str = ""

    @property
    def is_installed(self) -> bool:
        return not self.module or is_installed(self.module)


# In the order of preference, if two are level: the first needs the least to run.
_RUNTIMES = {
    "onnxruntime": _Runtime((ONNX,)),
    "openvino": _Runtime((ONNX_FOR_OPENVINO,), "openvino", "openvino"),
    "litert": _Runtime((LITERT,), "litert", "ai_edge_litert"),
    "executorch": _Runtime((EXECUTORCH,), "executorch", "executorch"),
    "torch": _Runtime((PT2, TORCHSCRIPT)),
}
RUNTIMES = tuple(_RUNTIMES)
# The simpler precision first: fewer numbers are rounded.
_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8-dynamic", "int8")
_VNNI = ("avx512_vnni", "avx_vnni")
_BFLOAT16 = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A form of the network that could be the fastest, for one of RUNTIMES.

    ``name`` is unique in its runtime. ``cpu`` is that of ``Int8Options``.
    """

    name: str
    runtime: str
    plan: Plan
    cpu: Cpu = "any"

    @property
    def label(self) -> str:
        """The name and the runtime, unique among all."""
        return f"{self.name}, {self.runtime}"

    @property
    def file_name(self) -> str:
        """A name for its file, unique among all."""
        words = f"{self.runtime} {self.name}".lower().replace(",", "").split()
        return "-".join(words) + self.plan.target.suffix

    @property
    def is_exact(self) -> bool:
        """Whether it answers as the checkpoint does, so that no picture has to judge it."""
        return self.plan.precision == "fp32"

    @property
    def is_rounded(self) -> bool:
        """Whether its numbers are rounded on a grid, which pictures may tell."""
        return self.plan.precision in ROUNDED

    @property
    def onnx_runtime(self) -> Runtime:
        """The ``--runtime`` of ``export``, whose default serves all that is not ONNX."""
        return choices.known(self.runtime, choices.RUNTIMES) or "onnxruntime"

    @property
    def opset(self) -> int | None:
        """The operator set of an ONNX file."""
        plan = self.plan
        return opset_of(plan.options, plan.precision) if plan.target.has_opsets else None

    @property
    def differs(self) -> tuple[str, ...]:
        """The options by which it differs from what ``export`` writes for its runtime by default.

        Those of the precision, the batch and the ends are not among them.
        """
        plan, given = self.plan, []
        options = replace(plan.options, opset=None)
        if plan.options.opset not in (None, opset_of(options, plan.precision)):
            given += ["--opset", str(plan.options.opset)]
        if plan.layout != plan.target.auto_layout(plan.precision, plan.options):
            given += ["--layout", plan.layout]
        if options.compile:
            given += ["--compile"]
        return tuple(given)

    def command(self, reading: Sequence[str], judging: Sequence[str], output: str) -> str:
        """The command that makes it again.

        ``reading`` are the checkpoint and the options to read it, ``judging`` those of pictures.
        """
        plan, options, usual = self.plan, self.plan.options, ExportOptions()
        words = ["levit-deploy", "export", *reading]
        for option, value, default in (
            ("--format", plan.target.name, ONNX.name),
            ("--runtime", self.onnx_runtime, ONNX.runtime),
            ("--precision", plan.precision, "fp32"),
            ("--head", plan.head, "mean"),
            ("--input-type", options.input, usual.input),
            ("--output-type", options.output, usual.output),
            ("--batch-size", options.batch_size, plan.target.batch_size),
            ("--cpu", self.cpu, "any"),
        ):
            if value != default:
                words += [option, str(value)]
        words += self.differs
        if self.is_rounded:
            words += [*judging, "--even-if-slower"]
        return shlex.join([*words, "-o", output])


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A form that is no candidate, and the reason, a sentence."""

    name: str
    runtime: str
    format: str
    form: Form
    reason: str

    @property
    def label(self) -> str:
        """As that of a candidate."""
        return f"{self.name}, {self.runtime}"


def default_runtimes() -> tuple[str, ...]:
    """Return those of RUNTIMES that are installed."""
    return tuple(name for name, runtime in _RUNTIMES.items() if runtime.is_installed)


def require_runtimes(names: Sequence[str]) -> tuple[str, ...]:
    """Return these names, or this one, in the order of RUNTIMES.

    Raises UsageError if there is none, or for one that is unknown or not installed.
    """
    names = [names] if isinstance(names, str) else names
    if not names:
        raise UsageError(f"No runtime was named. Expected some of {', '.join(RUNTIMES)}.")
    for name in names:
        runtime = _RUNTIMES[require_one_of("--runtime", name, RUNTIMES)]
        if runtime.module:
            require_extra(runtime.extra, (runtime.module,), f"--runtime {name}")
    return tuple(name for name in RUNTIMES if name in names)


def candidates(
    checkpoint: Checkpoint, runtimes: Sequence[str], wishes: Wishes, *, judged: bool
) -> tuple[tuple[Candidate, ...], tuple[LeftOut, ...]]:
    """Return all forms for these runtimes, the simpler first, and those that are left out.

    ``judged`` tells whether there are pictures, which judge all but fp32. Of two precisions the one
    that rounds less is the simpler, then the runtime that is first in RUNTIMES, and then what
    ``export`` writes by default. Raises UsageError for wishes that the checkpoint does not have.
    """
    several: list[Candidate] = []
    left_out: list[LeftOut] = []
    for runtime in runtimes:
        for name, target, form, cpu in _forms(runtime):
            reason = _why_not(form, wishes, judged)
            if reason:
                left_out.append(
                    LeftOut(
                        name=name, runtime=runtime, format=target.name, form=form, reason=reason
                    )
                )
                continue
            several.append(
                Candidate(
                    name=name,
                    runtime=runtime,
                    plan=_plan(checkpoint, target, form, wishes),
                    cpu=cpu,
                )
            )
    several.sort(
        key=lambda c: (
            _PRECISIONS.index(c.plan.precision),
            RUNTIMES.index(c.runtime),
            len(c.differs),
        )
    )
    return tuple(several), tuple(left_out)


def _forms(runtime: str) -> Iterator[tuple[str, Target, Form, Cpu]]:
    """The forms that a runtime runs, each with a name that is unique there."""
    for target in _RUNTIMES[runtime].targets:
        of_several = f"{target.name}, " if len(_RUNTIMES[runtime].targets) > 1 else ""
        for form in target.forms:
            yield f"{of_several}{form.name}", target, form, "any"
            if target is ONNX and form.precision == "int8" and has_any(_VNNI):
                yield f"{form.name}, for VNNI", target, form, "vnni"
    if runtime == "torch":
        with suppress(UsageError):  # for other processors there is none
            native = Form("tokens", "tokens", options=ExportOptions(compile=True))
            yield "native code", compiled_here(), native, "any"


def _why_not(form: Form, wishes: Wishes, judged: bool) -> str:
    """The reason to leave a form out, or nothing."""
    if form.precision == "fp32":
        return ""
    if not Interface(output=wishes.output).has_classes:
        return (
            f"{form.precision} is judged by its answers to pictures, and {wishes.output} answer "
            "nothing."
        )
    if not judged:
        return f"{form.precision} needs pictures to judge it by. Give --images DIR."
    if form.precision == "bf16" and not has_any(_BFLOAT16):
        return "This processor does not compute in bfloat16, and would be slower for it."
    return ""


def _plan(checkpoint: Checkpoint, target: Target, form: Form, wishes: Wishes) -> Plan:
    fixed = None if target.batch_size is None else wishes.batch_size
    options = replace(form.options, batch_size=fixed, input=wishes.input, output=wishes.output)
    return planned(
        checkpoint,
        target,
        head=wishes.head,
        layout=form.layout,
        precision=form.precision,
        options=options,
    )
