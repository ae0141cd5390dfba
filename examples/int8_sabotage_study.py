"""Measure whether the proof of int8 refuses every wrong file and no right one.

    python examples/int8_sabotage_study.py --sabotaged 200 --clean 50 --seed 0

rounds random LeViTs to int8, in either layout, three operator sets, with floats or bytes in and
some layers left in float, and verifies each file as it is and with sabotage of many kinds. Most
kinds make a file that is no rounding of the float network: each must be refused. Some make another
rounding, such as a grid too coarse. What that costs is found on pictures that the proof does not
use: the answers that change, in units of those that are allowed. Beyond two of them it must be
refused; up to there chance decides, as the pictures differ. A network is allowed to change twice
the answers that its right file changes. ``sabotage(network(seed, number), kind)`` makes any one
case again.
"""

import argparse
import dataclasses
import math
import random
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from mutation_study import BATCHNORMS, InapplicableError, choose, random_config
from onnx import numpy_helper
from torch import nn

from levit_deploy.arrays import Images
from levit_deploy.errors import LevitDeployError
from levit_deploy.interface import Interface
from levit_deploy.layout import to_spatial
from levit_deploy.model import AttentionBias, LeViT
from levit_deploy.passes import to_plain
from levit_deploy.pictures.split import Judging
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.calibration import observed_ranges
from levit_deploy.report import to_json
from levit_deploy.runtime.sessions import filled, onnx_session, runner
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.onnx_contract import check_contract
from levit_deploy.targets.onnx_int8_check import check_rounding
from levit_deploy.targets.onnx_int8_writer import Int8Form
from levit_deploy.targets.onnx_opsets import MOVEMENTS
from levit_deploy.targets.onnx_rounding import Rounding
from levit_deploy.verification.accuracy import accuracy, top1
from levit_deploy.verification.measure import measure
from levit_deploy.verification.original import Original

CALIBRATING, JUDGING = 8, 300
LEAST_ALLOWED = 0.5  # percent of answers, as without labels
CHANCE = 2.0  # times the answers allowed to change

# --- networks -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Drawn(Judging):
    """Images that are drawn, and not read from files; they have no labels."""

    images: Images

    def batches(self) -> Iterator[Images]:
        yield self.images


@dataclass(frozen=True, kw_only=True)
class Network:
    """A float network and its right int8 files, with the answers to two sets of pictures.

    ``quantized`` has some layers in float, ``whole`` has none, and ``saturating`` is for processors
    whose sums do not saturate. ``allowed`` is the percentage of answers that may change.
    """

    number: int
    how: str
    form: Int8Form
    plain: onnx.ModelProto
    quantized: onnx.ModelProto
    whole: onnx.ModelProto
    saturating: onnx.ModelProto
    judging: Drawn
    other: Drawn
    answers: np.ndarray
    other_answers: np.ndarray
    allowed: float


def network(seed: int, number: int) -> Network:
    """Draw a network; raises InapplicableError if its answers judge nothing."""
    rng = random.Random(f"{seed}:{number}")
    config = random_config(rng).replace(num_classes=rng.choice([3, 5, 10]), in_channels=3)
    input_type, layout = (
        rng.choice(["float32", "float32", "uint8"]),
        rng.choice(["tokens"] * 3 + ["spatial"]),
    )
    opset, batch = rng.choice([13, 17, 23]), rng.choice([None, None, None, 1, 4])
    plain = to_plain(trained(LeViT(config).eval(), rng), "mean")
    provenance = Provenance(
        checkpoint_sha256="",
        config=config,
        head="mean",
        layout=layout,
        interface=Interface(input=input_type),
    )
    draw = np.random.default_rng(rng.getrandbits(32))
    sizes = (CALIBRATING, JUDGING, JUDGING)
    images = [pictures(draw, n, config.image_size) for n in sizes]
    centre(plain, torch.from_numpy(normalised(images[0], provenance)))
    if input_type == "float32":
        images = [normalised(part, provenance) for part in images]
    plain = to_spatial(plain) if layout == "spatial" else plain
    form = Int8Form(model=plain, provenance=provenance, opset=opset, batch_size=batch)
    parts = form.places().parts
    floats = tuple(part for part in parts if rng.random() < rng.choice([0, 0, 0.2]))
    ranges = observed_ranges(form, images[0])[rng.choice(["MinMax", "Percentile"])]
    quantized, whole, saturating = (
        form.rounded(Rounding(ranges=ranges, cpu=cpu, floats=left))
        for cpu, left in (("any", floats), ("any", ()), ("vnni", floats))
    )
    judging, other = (
        Drawn(paths=(Path(),) * len(part), labels=None, transform=provenance.transform, images=part)
        for part in images[1:]
    )
    in_float, *on_bytes = (
        runner(m.SerializeToString(), batch, 1) for m in (form.unrounded(), quantized, whole)
    )
    answers, other_answers = (top1(in_float, part) for part in (judging, other))
    changed = [
        disagreement(top1(run, part), own)
        for part, own in ((judging, answers), (other, other_answers))
        for run in on_bytes
    ]
    allowed = max(2 * max(changed), LEAST_ALLOWED)
    if accuracy(answers, answers, judging, 2 * allowed).failures:
        raise InapplicableError
    return Network(
        number=number,
        how=f"opset {opset}, {layout}, {input_type}, batch {batch}, {len(floats)} in float",
        form=form,
        plain=form.unrounded(),
        quantized=quantized,
        whole=whole,
        saturating=saturating,
        judging=judging,
        other=other,
        answers=answers,
        other_answers=other_answers,
        allowed=allowed,
    )


@torch.no_grad()
def trained(model: LeViT, rng: random.Random) -> LeViT:
    """Give every parameter and statistic a random value, as small as training leaves them."""
    torch.manual_seed(rng.getrandbits(32))
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, *BATCHNORMS)):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
        if isinstance(module, BATCHNORMS):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.3, 2)
        elif isinstance(module, AttentionBias):
            module.biases.normal_(0, 0.3 / module.factor)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.normal_(0, module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
    return model


def pictures(draw: np.random.Generator, n: int, sides: tuple[int, int]) -> np.ndarray:
    """Pictures of a few colours: uint8 (n, height, width, 3)."""
    colours = torch.from_numpy(draw.integers(0, 2, (n, 3, 3, 3)) * 255.0)
    smooth = torch.nn.functional.interpolate(colours, sides, mode="bilinear")
    noisy = smooth.permute(0, 2, 3, 1).numpy() + draw.normal(0, 8, (n, *sides, 3))
    return np.asarray(noisy.clip(0, 255).astype(np.uint8))


def normalised(images: np.ndarray, provenance: Provenance) -> np.ndarray:
    return provenance.transform.normalise(images, dtype=np.float32)


@torch.no_grad()
def centre(plain: LeViT, images: torch.Tensor) -> None:
    """Give pictures all kinds of answers: logits of mean 0 and deviation 1."""
    logits = plain(images)
    deviation = logits.std(0) + 1e-6
    plain.head.weight /= deviation[:, None]
    plain.head.bias.sub_(logits.mean(0)).div_(deviation)


def disagreement(answers: np.ndarray, others: np.ndarray) -> float:
    return float(100 * np.mean(answers != others))


# --- sabotage -------------------------------------------------------------------------------------

Model = onnx.ModelProto
Change = Callable[[np.ndarray], np.ndarray]


def initializer(model: Model, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def numbers_of(model: Model, name: str) -> np.ndarray:
    return numpy_helper.to_array(initializer(model, name)).copy()


def change(model: Model, name: str, function: Change) -> None:
    """Change a constant; InapplicableError if it is the same afterwards."""
    before = numbers_of(model, name)
    after = np.asarray(function(before.copy())).astype(before.dtype)
    if np.array_equal(before, after):
        raise InapplicableError
    initializer(model, name).CopyFrom(numpy_helper.from_array(after, name))


def change_own(model: Model, nodes: Sequence[onnx.NodeProto], place: int, function: Change) -> None:
    """Change a constant of these nodes and of no others."""
    before = numbers_of(model, nodes[0].input[place])
    with np.errstate(all="ignore"):
        after = np.asarray(function(before)).astype(before.dtype)
    if np.array_equal(before, after):
        raise InapplicableError
    model.graph.initializer.append(numpy_helper.from_array(after, "changed"))
    for node in nodes:
        node.input[place] = "changed"


def of_type(model: Model, *op_types: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in op_types]


def readers(model: Model, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """All that read the bytes of a node on its grid, behind those that move them."""
    after = [n for n in model.graph.node if node.output[0] in n.input]
    moved = [n for n in after if n.op_type in MOVEMENTS]
    direct = [n for n in after if n.op_type == "DequantizeLinear"]
    return direct + [reader for n in moved for reader in readers(model, n)]


def a_grid(model: Model, rng: random.Random) -> list[onnx.NodeProto]:
    """A node that rounds, and all that read its bytes."""
    there = choose(rng, of_type(model, "QuantizeLinear"))
    return [there, *readers(model, there)]


def a_weight(model: Model, rng: random.Random, end: str = "weight") -> str:
    """The name of a rounded weight or bias."""
    names = [tensor.name for tensor in model.graph.initializer]
    suffix = f".{end}_quantized"
    return choose(rng, [n.removesuffix("_quantized") for n in names if n.endswith(suffix)])


def shifted(rng: random.Random, most: int) -> Change:
    by = rng.choice([-1, 1]) * rng.randint(1, most)
    return lambda zero: np.clip(zero.astype(int) + by, 0, 255)


def one_off(rng: random.Random, by: int) -> Change:
    def function(numbers: np.ndarray) -> np.ndarray:
        numbers, place = numbers.astype(int), rng.randrange(numbers.size)
        numbers.flat[place] -= by * (1 if numbers.flat[place] > 0 else -1)
        return numbers

    return function


def swap(rng: random.Random) -> Change:
    """Exchange two numbers that differ by more than rounding."""

    def function(numbers: np.ndarray) -> np.ndarray:
        one, two = rng.sample(range(len(numbers)), 2) if len(numbers) > 1 else (0, 0)
        if abs(numbers[one] - numbers[two]) <= 0.02 * abs(numbers[one]):
            raise InapplicableError
        numbers[[one, two]] = numbers[[two, one]]
        return numbers

    return function


def attention_bias_off(_net: Network, model: Model, rng: random.Random) -> None:
    own = [t.name for t in model.graph.initializer if t.name.endswith("attention_bias")]
    change(model, choose(rng, own), lambda a: a * np.float32(1 + 10 ** rng.uniform(-3, 0)))


def swap_q_and_k(net: Network, model: Model, rng: random.Random) -> None:
    if net.form.provenance.layout == "spatial":
        split = choose(rng, [n for n in of_type(model, "Split") if len(n.output) == 3])
        split.output[0], split.output[1] = split.output[1], split.output[0]
        return
    products = {n.output[0]: n for n in of_type(model, "Gemm")}
    q = choose(rng, [name for name in products if name.endswith(".qkv.q.gemm")])
    one, two = products[q], products[q.replace(".qkv.q.", ".qkv.k.")]
    for place in (1, 2):
        one.input[place], two.input[place] = two.input[place], one.input[place]


def without_clip(_net: Network, model: Model, rng: random.Random) -> None:
    clip = choose(rng, of_type(model, "Clip"))
    for node in model.graph.node:
        node.input[:] = [clip.input[0] if name == clip.output[0] else name for name in node.input]
    model.graph.node.remove(clip)


def gate_of_other_bytes(_net: Network, model: Model, rng: random.Random) -> None:
    clip = choose(rng, of_type(model, "Clip"))
    clip.input[0] = choose(rng, [n for n in of_type(model, "Clip") if n is not clip]).input[0]


def coarser(end: str, most: float) -> Callable[[Network, Model, random.Random], None]:
    """Round the float weight or bias again, in larger steps."""

    def sabotage(net: Network, model: Model, rng: random.Random) -> None:
        weight = a_weight(model, rng, end)
        times = np.float32(rng.uniform(3, most))
        change(model, f"{weight}_scale", lambda scale: scale * times)
        scale = numbers_of(model, f"{weight}_scale")
        own = numbers_of(net.plain, weight)
        steps = scale.reshape(-1, *[1] * (own.ndim - 1))
        change(model, f"{weight}_quantized", lambda _: np.rint(own / steps))

    return sabotage


def float_weight_off(_net: Network, model: Model, rng: random.Random) -> None:
    names = [t.name for t in model.graph.initializer if t.name.endswith(".weight")]
    change(model, choose(rng, names), one_number_times(rng, 1 + 10 ** rng.uniform(-4, 0)))


def one_number_times(rng: random.Random, times: float) -> Change:
    def function(numbers: np.ndarray) -> np.ndarray:
        numbers.flat[rng.randrange(numbers.size)] *= times
        return numbers

    return function


def rounded_again(_net: Network, model: Model, rng: random.Random) -> None:
    """Read bytes and round them on another grid before they are read again."""
    there, back, *_ = (*a_grid(model, rng), None, None)
    if back is None:
        raise InapplicableError
    factor = np.float32(rng.uniform(1.01, 4))
    scale = numbers_of(model, there.input[1]) * factor
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale), "again_scale"))
    ends = ["again_scale", there.input[2]]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", [back.output[0], *ends], ["again"], "again"),
        onnx.helper.make_node("DequantizeLinear", ["again", *ends], ["read_again"], "read_again"),
    ]
    for node in model.graph.node:
        node.input[:] = ["read_again" if name == back.output[0] else name for name in node.input]
    place = list(model.graph.node).index(back) + 1
    for node in reversed(nodes):
        model.graph.node.insert(place, node)


def rounding_left_out(_net: Network, model: Model, rng: random.Random) -> None:
    """Claim that a value is read as bytes, and read the floats."""
    there, *back = a_grid(model, rng)
    if not back or any(node.input[0] != there.output[0] for node in back):
        raise InapplicableError
    for node in model.graph.node:
        for reader in back:
            node.input[:] = [
                there.input[0] if name == reader.output[0] else name for name in node.input
            ]


def wires_crossed(_net: Network, model: Model, rng: random.Random) -> None:
    adds = [n for n in of_type(model, "Add") if n.name.endswith(".add")]
    one, two = choose(rng, list(pairwise(adds)))
    one.input[1], two.input[1] = two.input[1], one.input[1]


def mean_off(_net: Network, model: Model, rng: random.Random) -> None:
    if "pixels.mean_quantized" not in {tensor.name for tensor in model.graph.initializer}:
        raise InapplicableError
    change(model, "pixels.mean_quantized", one_off(rng, rng.randint(2, 9)))


def saturating(net: Network, model: Model, _rng: random.Random) -> None:
    """The file for processors that do not saturate, whatever this one does."""
    model.CopyFrom(net.saturating)


Sabotage = Callable[[Network, Model, random.Random], None]

NO_ROUNDING: dict[str, Sabotage] = {
    "zero point shifted, read": lambda _, m, rng: change_own(
        m, a_grid(m, rng)[1:2] or choose(rng, []), 2, shifted(rng, 20)
    ),
    "scale off by 2 %, read": lambda _, m, rng: change_own(
        m, a_grid(m, rng)[1:2] or choose(rng, []), 1, lambda scale: scale * 1.02
    ),
    "scale of a weight off by 2 %": lambda _, m, rng: change(
        m, f"{a_weight(m, rng)}_scale", lambda scale: scale * rng.choice([0.98, 1.02])
    ),
    "two channels' scales exchanged": lambda _, m, rng: change(
        m, f"{a_weight(m, rng)}_scale", swap(rng)
    ),
    "weight two steps off": lambda _, m, rng: change(
        m, f"{a_weight(m, rng)}_quantized", one_off(rng, 2)
    ),
    "weight of another channel": lambda _, m, rng: change(
        m, f"{a_weight(m, rng)}_quantized", lambda w: np.roll(w, 1, 0)
    ),
    "bias off": lambda _, m, rng: change(
        m, f"{a_weight(m, rng, 'bias')}_quantized", one_off(rng, rng.randint(1, 5000))
    ),
    "bias in coarser steps": coarser("bias", 1e5),
    "weight in coarser steps": coarser("weight", 30),
    "attention bias off": attention_bias_off,
    "q and k swapped": swap_q_and_k,
    "clip dropped": without_clip,
    "clip elsewhere": lambda _, m, rng: change_own(
        m, [choose(rng, of_type(m, "Clip"))], 2, shifted(rng, 40)
    ),
    "gate of other bytes": gate_of_other_bytes,
    "float weight off": float_weight_off,
    "read, and rounded again": rounded_again,
    "wires crossed": wires_crossed,
    "mean of the bytes off": mean_off,
}
ANOTHER_ROUNDING: dict[str, Sabotage] = {
    "zero point shifted, on the grid": lambda _, m, rng: change_own(
        m, a_grid(m, rng), 2, shifted(rng, 120)
    ),
    "scale off by 2 %, on the grid": lambda _, m, rng: change_own(
        m, a_grid(m, rng), 1, lambda scale: scale * 1.02
    ),
    "grid too coarse": lambda _, m, rng: change_own(
        m, a_grid(m, rng), 1, lambda scale: scale * 2 ** rng.uniform(1, 7)
    ),
    "grid too narrow": lambda _, m, rng: change_own(
        m, a_grid(m, rng), 1, lambda scale: scale / 2 ** rng.uniform(1, 7)
    ),
    "rounding left out": rounding_left_out,
    # up or down is a rounding, as weights are fitted
    "weight one step off": lambda _, m, rng: change(
        m, f"{a_weight(m, rng)}_quantized", one_off(rng, 1)
    ),
    "sums that saturate": saturating,
}

# --- one file -------------------------------------------------------------------------------------


def verdict(net: Network, model: Model) -> tuple[str, str]:
    """The step of the proof that refuses a file, and its words; empty if it is proven."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        path.write_bytes(model.SerializeToString())
        for step, check in STEPS.items():
            try:
                check(net, path)
            except LevitDeployError as error:
                return step, f"{type(error).__name__}: {error}"
    return "", ""


def check_structure(net: Network, path: Path) -> None:
    check_rounding(onnx.load(path), net.plain)
    check_contract(path)


def check_runtime(net: Network, path: Path) -> None:
    made = net.form.provenance
    artifact = load_artifact(path, threads=1)
    session = onnx_session(path.read_bytes(), 1, literal=True)
    name = made.interface.input_name
    literal = filled(lambda images: session.run(None, {name: images})[0], net.form.batch_size)
    original = Original(
        model=net.form.model, config=made.config, head=made.head, transform=made.transform
    )
    measure(original, artifact, precision="int8", literal=literal).raise_if_failed()


def check_answers(net: Network, path: Path) -> None:
    answers = top1(runner(path.read_bytes(), net.form.batch_size, 1), net.judging)
    failures = accuracy(net.answers, answers, net.judging, net.allowed).failures
    if failures:
        raise LevitDeployError("; ".join(failures))


STEPS: dict[str, Callable[[Network, Path], None]] = {
    "structure": check_structure,
    "pictures": check_answers,
    "runtime": check_runtime,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What became of a file.

    ``kind`` is that of the sabotage, "" for a right file. ``excess`` is the number of answers to
    other pictures that change, in units of those allowed, infinite if it does not run; None for
    what is no rounding of the network, which must be refused. ``step`` refused it.
    """

    number: int
    kind: str
    how: str
    excess: float | None
    step: str
    refusal: str

    @property
    def must_be_refused(self) -> bool:
        return self.excess is None or self.excess > CHANCE


def clean(net: Network, model: Model) -> Case:
    return _case(net, "", model)


def sabotage(net: Network, kind: str) -> Case:
    """Raises InapplicableError if this network has nothing to sabotage so."""
    rng = random.Random(f"{net.number}:{kind}")
    model = Model()
    model.CopyFrom(net.quantized)
    (NO_ROUNDING | ANOTHER_ROUNDING)[kind](net, model, rng)
    return _case(net, kind, model)


def _case(net: Network, kind: str, model: Model) -> Case:
    step, refusal = verdict(net, model)
    return Case(
        number=net.number,
        kind=kind,
        how=net.how,
        excess=None if kind in NO_ROUNDING else excess(net, model),
        step=step,
        refusal=refusal,
    )


def excess(net: Network, model: Model) -> float:
    try:
        answers = top1(runner(model.SerializeToString(), net.form.batch_size, 1), net.other)
    except Exception:  # onnxruntime's own share no base class
        return math.inf
    return disagreement(answers, net.other_answers) / net.allowed


# --- the study ------------------------------------------------------------------------------------


def study(
    sabotaged: int, untouched: int, seed: int, progress: Callable[[int], object]
) -> tuple[list[Case], list[Case]]:
    """Leave two files of each network as they are and sabotage eight, in each way in turn.

    Returns the wrong ones and the right ones.
    """
    wrong: list[Case] = []
    right: list[Case] = []
    waiting = deque((*NO_ROUNDING, *ANOTHER_ROUNDING))
    for number in count():
        if len(wrong) >= sabotaged and len(right) >= untouched:
            return wrong, right
        try:
            net = network(seed, number)
        except InapplicableError:
            continue
        right += [clean(net, m) for m in (net.quantized, net.whole)[: untouched - len(right)]]
        until = min(sabotaged, len(wrong) + 8)
        for kind in list(waiting):
            if len(wrong) < until:
                with suppress(InapplicableError):  # its turn comes with the next network
                    wrong.append(sabotage(net, kind))
                    waiting.remove(kind)
                    waiting.append(kind)
        progress(len(wrong) + len(right))
    raise AssertionError


def report(wrong: Sequence[Case], right: Sequence[Case]) -> Iterator[str]:
    """The table, then every miss and every false alarm."""
    heads = ("made", "must", *STEPS, "missed")
    yield f"{'kind of sabotage':34}" + "".join(f"{head:>10}" for head in heads)
    for kind in (*NO_ROUNDING, *ANOTHER_ROUNDING):
        if made := [case for case in wrong if case.kind == kind]:
            yield f"{kind:34}" + _row(made)
    yield f"{'all':34}" + _row(wrong)
    alarms = [case for case in right if case.refusal]
    yield f"\nclean: {len(right)}, false alarms: {len(alarms)}"
    yield from (f"MISSED: {case}" for case in wrong if case.must_be_refused and not case.refusal)
    yield from (f"FALSE ALARM: {case}" for case in alarms)


def _row(cases: Sequence[Case]) -> str:
    must = [case for case in cases if case.must_be_refused]
    by = Counter(case.step for case in cases)
    numbers = (len(cases), len(must), *(by[step] for step in STEPS))
    return "".join(f"{number:10}" for number in (*numbers, sum(not c.refusal for c in must)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sabotaged", type=int, default=200)
    parser.add_argument("--clean", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for every case and its figures")
    args = parser.parse_args()
    torch.set_num_threads(1)

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {args.sabotaged + args.clean}", end="", file=sys.stderr)

    wrong, right = study(args.sabotaged, args.clean, args.seed, progress)
    print(*report(wrong, right), sep="\n")
    if args.json:
        cases = {
            name: [{**dataclasses.asdict(c), "must_be_refused": c.must_be_refused} for c in cases]
            for name, cases in (("sabotaged", wrong), ("clean", right))
        }
        args.json.write_text(to_json(cases))


if __name__ == "__main__":
    main()
