"""Export an artifact again, and compare the file: every node, every wire and every weight.

A proof by inputs proves the function on those inputs. This comparison proves for all inputs that
nothing changed since the export, and so leaves only the exporter to the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import HEADS, LAYOUTS, ROUNDED, Precision, known
from levit_deploy.errors import ArtifactError, CheckpointError, UsageError
from levit_deploy.interface import DEFAULT
from levit_deploy.provenance import THIS_VERSION, Provenance, claimed_precision, is_ours
from levit_deploy.runtime.artifact import Artifact, read_artifact
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.fused import FUSED
from levit_deploy.targets.onnx import ONNX_FOR_OPENVINO
from levit_deploy.targets.plan import Plan, require_possible
from levit_deploy.targets.target import ExportOptions, Target

# The passes compute in float64 and round once. Of the largest number in a tensor, this part is more
# than their own error, which processors may differ by. It decides one weight of 100,000.
FLOAT64_ERROR = 2.0**-44
SIZES = ("image_size", "in_channels", "stem_dims", "stages", "downsamples")  # of a config


@dataclass(frozen=True)
class GraphComparison:
    """Whether a file is the ``same`` as exported again, None if it was not compared.

    ``words`` tell how, where it differs, or why it was not compared. ``advice`` is for a file that
    differs.
    """

    same: bool | None
    words: str
    advice: str = ""

    def __str__(self) -> str:
        return self.words

    @property
    def refusal(self) -> str:
        """The message for a file in which only this comparison finds a fault."""
        return (
            "The artifact is not the file that levit-deploy exports from this checkpoint: "
            f"{self.words}. It was changed after its export, or made of another checkpoint. It "
            "computes the same on the inputs of the proof, but may not on others. Export it "
            f"again. {self.advice}"
        ).rstrip()


def exported_again(checkpoint: Checkpoint, artifact: Artifact) -> GraphComparison:
    """Compare a proven artifact with the file that its options give today.

    Only a file of this version is compared, and none of native code.
    """
    metadata = artifact.metadata
    if not is_ours(metadata):
        return _not_compared("another tool wrote the file")
    precision = claimed_precision(metadata)
    if precision in ROUNDED:  # which the proof refuses otherwise
        return GraphComparison(True, "the network exported again, and only rounded")
    if metadata["tool"] != THIS_VERSION:
        return _not_compared(f"{metadata['tool']} wrote the file, and this is {THIS_VERSION}")
    if metadata.get("processor"):
        return _not_compared("to compile native code again takes a minute")
    claimed = Provenance.from_metadata(metadata)  # the proof has read it, too
    target = target_of(artifact)
    libraries = target.written_with
    others = f"the file was written with {claimed.written_with or 'unknown libraries'}, and " + (
        f"here are {libraries}"
    )
    if target.difference is None and claimed.written_with != libraries:
        return _not_compared(others)
    difference = _difference(checkpoint, artifact, claimed)
    if difference is None:
        return GraphComparison(True, "the same file as exported again, byte by byte")
    if not difference:
        return GraphComparison(True, "the same network as exported again: nodes, wires and weights")
    if claimed.written_with != libraries:
        return _not_compared(f"{others}, which may write it otherwise ({difference})")
    return GraphComparison(False, difference, _advice(checkpoint, artifact, precision))


def _not_compared(reason: str) -> GraphComparison:
    return GraphComparison(None, f"not compared with a new export, as {reason}")


def _difference(checkpoint: Checkpoint, artifact: Artifact, claimed: Provenance) -> str | None:
    """The first difference in words, empty if none matters; None if not a byte differs."""
    for fact in (*SIZES, *(["num_classes"] if claimed.interface.has_classes else [])):
        if getattr(claimed.config, fact) != getattr(checkpoint.config, fact):
            return f"the config in its metadata has another {fact}"
    data = read_artifact(artifact.path)
    try:
        plan = plan_of(checkpoint, artifact, claimed.precision)
        plan = replace(plan, options=plan.target.chosen(plan.options, data))
        require_possible(plan)
        write = _writer(plan, replace(claimed, config=checkpoint.config))
        again = write(0.0)
        if data == again:
            return None
        if plan.target.difference is None:
            return "some bytes are others"
        del again
        return plan.target.difference(data, write(-FLOAT64_ERROR), write(FLOAT64_ERROR))
    except (ArtifactError, CheckpointError, UsageError) as error:
        return f"none like it can be exported ({str(error).rstrip('.')})"


def _writer(plan: Plan, provenance: Provenance) -> Callable[[float], bytes]:
    return lambda moved: plan.target.serialize(plan.network(moved), provenance, plan.options)


def _advice(checkpoint: Checkpoint, artifact: Artifact, precision: Precision) -> str:
    """What else to do, if the file may pass as one of another tool."""
    usual = (precision, artifact.interface) == ("fp32", DEFAULT)
    own_head = artifact.metadata.get("head", checkpoint.head) == checkpoint.head
    if artifact.format != "onnx" or not (usual and own_head):
        return ""
    return (
        "If a tool of yours changed it on purpose, remove its metadata_props: it is then proven by "
        "inputs alone, as the file of another tool."
    )


def target_of(artifact: Artifact) -> Target:
    """Return the target that wrote an artifact of ours; ArtifactError if there is none."""
    if artifact.format == "onnx" and artifact.metadata.get("runtime") == "openvino":
        return ONNX_FOR_OPENVINO
    return FUSED if artifact.format == FUSED.name else TARGETS[artifact.format]


def plan_of(checkpoint: Checkpoint, artifact: Artifact, precision: Precision) -> Plan:
    """Return the plan that its metadata tell of an artifact; ArtifactError for no known layout."""
    claimed = artifact.metadata.get("layout", "")
    layout = known(claimed, LAYOUTS)
    if layout is None:
        raise ArtifactError(
            f"{artifact.path} has the layout {claimed!r}. Expected one of {', '.join(LAYOUTS)}. "
            "Export it again."
        )
    interface = artifact.interface
    head = known(artifact.metadata.get("head"), HEADS)
    return Plan(
        checkpoint=checkpoint,
        target=target_of(artifact),
        head="mean" if head is None or head == checkpoint.head else head,
        layout=layout,
        precision=precision,
        options=ExportOptions(None, artifact.batch_size, interface.input, interface.output),
    )
