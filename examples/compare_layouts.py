"""Time one LeViT in every form this tool writes, side by side, against the plain export.

    pip install levit-deploy onnxscript
    python examples/compare_layouts.py LeViT-256 --batch-size 1

prints, for each form, the number of ONNX nodes, the median time of a batch, and the speed against
the plain export (torch.onnx, then onnxsim, nothing of ours), as the median of the ratios within
each round. Everything runs on one thread. Weights, statistics and biases are random: with those of
a fresh network, onnxsim would drop what multiplies by one or adds zero.
"""

import argparse
import copy
import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import onnx
import onnxruntime
import onnxsim
import torch

from levit_deploy.config import VARIANTS, LeViTConfig
from levit_deploy.exporters.onnx import to_onnx
from levit_deploy.exporters.torchscript import to_torchscript
from levit_deploy.layout import to_spatial
from levit_deploy.model import LeViT
from levit_deploy.passes import passes, to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.timing import rounds_side_by_side

Run = Callable[[torch.Tensor], object]


def plain_export(model: LeViT, config: LeViTConfig) -> onnx.ModelProto:
    """What one gets without this tool."""
    images = torch.zeros(2, config.in_channels, *config.image_size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        torch.onnx.export(
            model,
            (images,),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        return onnxsim.simplify(onnx.load(path))[0]


def randomised(model: LeViT) -> LeViT:
    """Leave nothing at a value that a simplifier could take advantage of."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) / 10 + 0.5 * (tensor.dim() == 1))
    return model


def without_early_pooling(model: LeViT) -> LeViT:
    """The plain model as it would be without the last pass."""
    plain = copy.deepcopy(model).double().eval()
    for apply in passes()[:-1]:
        plain = apply(plain)
    return plain.float().eval()


def onnx_run(proto: onnx.ModelProto) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.numpy()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)

    config = VARIANTS[args.variant]
    model = randomised(LeViT(config)).eval()
    plain = to_plain(model)
    provenance = Provenance("", config, "mean", "")
    graphs = {
        "plain export": plain_export(model, config),
        "tokens": to_onnx(plain, provenance),
        "tokens, opset 23": to_onnx(plain, provenance, opset=23),
        "spatial": to_onnx(to_spatial(plain), provenance),
        "spatial, pooling late": to_onnx(to_spatial(without_early_pooling(model)), provenance),
    }
    runs: dict[str, Run] = {name: onnx_run(proto) for name, proto in graphs.items()}
    for layout, form in (("tokens", plain), ("spatial", to_spatial(plain))):
        program = torch.jit.load(io.BytesIO(to_torchscript(form, provenance)))
        runs[f"TorchScript, {layout}"] = program
    images = torch.zeros(2, config.in_channels, *config.image_size)
    runs["TorchScript of the original"] = torch.jit.freeze(torch.jit.trace(model, images))
    runs["original, eager"] = model

    batch = torch.randn(args.batch_size, config.in_channels, *config.image_size)
    calls = {name: partial(run, batch) for name, run in runs.items()}
    with torch.inference_mode():
        times = rounds_side_by_side(calls, rounds=args.rounds)

    print(f"{args.variant}, batch {args.batch_size}, one thread, {args.rounds} rounds")
    base = times["plain export"]
    for name, taken in times.items():
        ratio = median(plain / ours for plain, ours in zip(base, taken, strict=True))
        nodes = len(graphs[name].graph.node) if name in graphs else ""
        print(f"{name:28} {nodes!s:>4} nodes {median(taken) * 1000:8.2f} ms {ratio:6.3f} x")


if __name__ == "__main__":
    main()
