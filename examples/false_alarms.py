"""Count how often the proof refuses a correct artifact.

    python examples/false_alarms.py --seconds 600

builds random LeViTs with random weights, statistics and biases, exports each in both layouts, and
verifies the graphs with the budget of ``verification/budget.py``. Every one is correct,
so every refusal is a false alarm; it is printed with its figures.
"""

import argparse
import random
import time
from collections import Counter

import onnxruntime
import torch

from levit_deploy.config import ACTIVATIONS, Downsample, LeViTConfig, Stage
from levit_deploy.exporters.onnx import OPSETS, to_onnx
from levit_deploy.layout import to_spatial
from levit_deploy.model import AttentionBias, LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.verification.compare import Reference, compare_case
from levit_deploy.verification.inputs import standard_cases


def random_config(rng: random.Random) -> LeViTConfig:
    dims = [8 * rng.randint(1, 6) for _ in range(rng.randint(1, 3))]
    return LeViTConfig(
        image_size=(32 * rng.randint(1, 3), 32 * rng.randint(1, 3)),
        in_channels=rng.choice([1, 3]),
        num_classes=rng.choice([1, 2, 5, 10, 100]),
        stem_dims=(4, 8, dims[0]),
        stages=tuple(
            Stage(
                dim=dim,
                depth=rng.randint(1, 2),
                num_heads=rng.randint(1, 4),
                key_dim=rng.choice([4, 8, 16]),
                value_dim=rng.choice([8, 16, 32]),
                mlp_dim=rng.choice([0, dim, 2 * dim]),
            )
            for dim in dims
        ),
        downsamples=tuple(
            Downsample(
                num_heads=rng.randint(1, 4),
                key_dim=rng.choice([4, 8, 16]),
                value_dim=rng.choice([8, 32]),
                mlp_dim=rng.choice([0, 2 * dim]),
            )
            for dim in dims[1:]
        ),
        distillation=rng.random() < 0.5,
        activation=rng.choice(ACTIVATIONS),
    )


def random_network(config: LeViTConfig) -> LeViT:
    model = LeViT(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, AttentionBias):
                module.biases.normal_()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    artifacts, alarms, images = 0, 0, Counter()
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        config = random_config(rng)
        model = random_network(config)
        plain, reference = to_plain(model), Reference(model)
        for form in (plain, to_spatial(plain)):
            proto = to_onnx(form, Provenance("", config, "mean", ""), opset=rng.choice(OPSETS))
            session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
            artifacts += 1
            for case in standard_cases(config, seed=0):
                result = compare_case(
                    case,
                    reference,
                    lambda x, session=session: session.run(None, {"pixel_values": x})[0],
                    fixed_batch=None,
                )
                images[result.images] += 1
                if result.failures:
                    alarms += 1
                    print(f"{config}: {result}")
    print(f"{artifacts} correct artifacts, {alarms} false alarms")
    print(f"kinds of input settled by number of images: {dict(sorted(images.items()))}")


if __name__ == "__main__":
    main()
