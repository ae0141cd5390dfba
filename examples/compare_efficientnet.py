"""Time LeViT-192 against the EfficientNets of its accuracy, side by side, in today's runtimes.

    pip install -c constraints.txt . onnxscript transformers
    python examples/compare_efficientnet.py --batch-size 1,16

The LeViT paper claims: at 80 % ImageNet top-1, five times as fast as EfficientNet on CPU. In
onnxruntime, LeViT-192 takes part as this tool exports and proves it, and as the plain export
(torch.onnx, then onnxsim), as which the EfficientNets of the transformers library do; in torch, as
eager networks, all do. Prints for each the median time of a batch and how many times as fast our
LeViT-192, or in torch the original, is: the median and the quartiles of the ratios within each
round. Weights, BatchNorm statistics and biases are random; the top-1 is as published.
"""

import argparse
import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch

import levit_deploy
from levit_deploy.bench.benchmark import randomised
from levit_deploy.bench.plain_export import plain_export
from levit_deploy.config import VARIANTS
from levit_deploy.interface import INPUT_NAME
from levit_deploy.model import LeViT
from levit_deploy.report import to_json
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.timing import ratio, rounds_side_by_side

TOP1 = {  # LeViT: arXiv 2104.01136; EfficientNet: arXiv 1905.11946, table 2
    "LeViT-192": 80.0,
    "EfficientNet-B1": 79.1,
    "EfficientNet-B2": 80.1,
}
NAMES = ("width_coefficient", "depth_coefficient", "image_size", "hidden_dim", "depthwise_padding")
EFFICIENTNETS = {  # as transformers converts the published weights
    "EfficientNet-B1": (1.0, 1.1, 240, 1280, [16]),
    "EfficientNet-B2": (1.1, 1.2, 260, 1408, [5, 8, 16]),
}


@dataclass(frozen=True)
class Entrant:
    """A network in one form; ``opponent`` is the index of the LeViT-192 it is held against."""

    name: str
    form: str
    opponent: int
    image: tuple[int, int, int]
    parameters: int
    nodes: int | None
    run: Callable[[torch.Tensor], object]


def efficientnet(name: str) -> torch.nn.Module:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    settings: dict[str, Any] = dict(zip(NAMES, EFFICIENTNETS[name], strict=True))
    settings |= {"num_labels": 1000, "return_dict": False}  # a tuple of logits, not a dict
    return randomised(EfficientNetForImageClassification(EfficientNetConfig(**settings)))


def exported(model: torch.nn.Module) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "levit.pth"
        torch.save({"model": model.state_dict()}, path)
        published = levit_deploy.export(levit_deploy.load(path), "onnx", f"{folder}/levit.onnx")
        return published.path.read_bytes()


def entrants(opponents: list[str], threads: int) -> Iterator[Entrant]:
    for name in ("LeViT-192", *opponents):
        if name in EFFICIENTNETS:
            model, side = efficientnet(name), EFFICIENTNETS[name][2]
        else:
            model, side = randomised(LeViT(VARIANTS[name])), VARIANTS[name].image_size[0]
        image = (3, side, side)
        known = (image, sum(p.numel() for p in model.parameters()))
        files = {"this tool": exported(model)} if isinstance(model, LeViT) else {}
        yield Entrant(name, "torch, eager", 0, *known, None, model)
        for form, data in (files | {"plain export": plain_export(model, image)}).items():
            session = onnx_session(data, threads)
            nodes = len(onnx.load_from_string(data).graph.node)
            run = partial(lambda session, x: session.run(None, {INPUT_NAME: x.numpy()}), session)
            yield Entrant(name, form, 1, *known, nodes, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("opponents", nargs="*", metavar="NETWORK", help="both, if none is named")
    parser.add_argument("--batch-size", default="1,16", help="one size or more")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for every figure")
    args = parser.parse_args()
    if unknown := set(args.opponents) - set(EFFICIENTNETS):
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(EFFICIENTNETS)}")
    if importlib.util.find_spec("transformers") is None:
        raise SystemExit(
            "transformers, which builds EfficientNet, is missing: pip install transformers"
        )
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    rows: list[dict[str, Any]] = []
    found = list(entrants(args.opponents or list(EFFICIENTNETS), args.threads))
    print(f"{args.rounds} rounds, {args.threads} thread{'s' if args.threads > 1 else ''}")
    print("network          top-1   params  form          nodes  batch        ms  images/s  slower")
    for size in map(int, args.batch_size.split(",")):
        calls = {str(i): partial(e.run, torch.randn(size, *e.image)) for i, e in enumerate(found)}
        with torch.inference_mode():
            times = list(rounds_side_by_side(calls, rounds=args.rounds).values())
        for e, taken in zip(found, times, strict=True):
            median, slower = statistics.median(taken), ratio(taken, times[e.opponent])
            known = {"name": e.name, "form": e.form, "parameters": e.parameters, "nodes": e.nodes}
            figures = {"batch_size": size, "median_s": median, "slower": asdict(slower)}
            rows.append(known | {"top1": TOP1[e.name]} | figures)
            print(
                f"{e.name:15} {TOP1[e.name]:5.1f} % {e.parameters / 1e6:5.1f} M  {e.form:12}"
                f"{e.nodes or '':>7}{size:7}{median * 1000:10.2f}{size / median:10.1f}"
                f"  {slower.median:.2f} x ({slower.low:.2f} to {slower.high:.2f})"
            )
    if args.json:
        data = {"threads": args.threads, "rounds": args.rounds, "rows": rows}
        args.json.write_text(to_json(data))


if __name__ == "__main__":
    main()
