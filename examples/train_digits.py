"""Train a small LeViT on real scanned digits and save it as an official training run does.

    pip install -c constraints.txt . scikit-learn
    python examples/train_digits.py OUTPUT_DIRECTORY

takes about a minute on one core and writes

    checkpoint.pth   model, model_ema, optimizer, lr_scheduler, epoch, scaler and args: what the
                     official main.py saves after every epoch
    model.pth        {'model': ...}: what the official repository publishes
    held_out.npz     360 scans the network has not seen, and their labels

The last two are what ``levit-deploy demo`` carries. The class head learns the labels; the
distillation head learns the answers of a teacher, a support vector machine, on scans the teacher
was not fitted on (hard distillation, Touvron et al., arXiv 2012.12877, section 3).
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.svm import SVC
from torch.nn.functional import cross_entropy

from levit_deploy.config import Downsample, LeViTConfig, Stage
from levit_deploy.demo.digits import IMAGE_SIZE, to_input
from levit_deploy.model import LeViT

CONFIG = LeViTConfig(
    image_size=(IMAGE_SIZE, IMAGE_SIZE),
    in_channels=1,
    num_classes=10,
    stem_dims=(4, 8, 16, 32),
    stages=(
        Stage(dim=32, depth=2, num_heads=2, key_dim=16, value_dim=32, mlp_dim=64),
        Stage(dim=48, depth=2, num_heads=3, key_dim=16, value_dim=32, mlp_dim=96),
        Stage(dim=64, depth=1, num_heads=4, key_dim=16, value_dim=32, mlp_dim=128),
    ),
    downsamples=(
        Downsample(num_heads=2, key_dim=16, value_dim=64, mlp_dim=96),
        Downsample(num_heads=3, key_dim=16, value_dim=64, mlp_dim=128),
    ),
)


def shifted(scans: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move each 8x8 scan by up to one pixel in each direction."""
    padded = np.pad(scans, ((0, 0), (1, 1), (1, 1)))
    rows, columns = rng.integers(0, 3, (2, len(scans)))
    return np.stack(
        [scan[y : y + 8, x : x + 8] for scan, y, x in zip(padded, rows, columns, strict=True)]
    )


def update_average(average: LeViT, model: LeViT, decay: float) -> None:
    """Move the averaged weights towards the model's."""
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def accuracy(model: LeViT, images: torch.Tensor, labels: np.ndarray) -> float:
    """Top-1 in percent, on the mean of the two heads."""
    model.eval()
    with torch.no_grad():
        answers = model(images).argmax(1).numpy()
    model.train()
    return float((answers == labels).mean() * 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    digits = load_digits()
    scans, held_out, labels, held_out_labels = train_test_split(
        digits.images.astype(np.uint8),
        digits.target,
        test_size=360,
        random_state=args.seed,
        stratify=digits.target,
    )
    teacher = SVC(gamma=0.001, C=10)
    teacher_labels = cross_val_predict(teacher, scans.reshape(len(scans), -1), labels, cv=5)

    model = LeViT(CONFIG)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.025)
    steps = args.epochs * (len(scans) // args.batch_size)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)
    test_images = torch.from_numpy(to_input(held_out))

    for epoch in range(args.epochs):
        order = rng.permutation(len(scans))
        for start in range(0, len(scans) - args.batch_size + 1, args.batch_size):
            batch = order[start : start + args.batch_size]
            images = torch.from_numpy(to_input(shifted(scans[batch], rng)))
            class_logits, distilled_logits = model(images)
            loss = (
                cross_entropy(class_logits, torch.from_numpy(labels[batch]))
                + cross_entropy(distilled_logits, torch.from_numpy(teacher_labels[batch]))
            ) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            update_average(average, model, decay=0.99)
        if epoch % 10 == 9 or epoch + 1 == args.epochs:
            top1 = accuracy(model, test_images, held_out_labels)
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}, held-out top-1 {top1:.2f} %")

    official_args = argparse.Namespace(**{**vars(args), "output": str(args.output)})
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": args.epochs - 1,
        "model_ema": average.state_dict(),
        "scaler": torch.amp.GradScaler("cpu", enabled=False).state_dict(),
        "args": official_args,
    }
    torch.save(checkpoint, args.output / "checkpoint.pth")
    torch.save({"model": model.state_dict()}, args.output / "model.pth")
    np.savez_compressed(
        args.output / "held_out.npz", scans=held_out, labels=held_out_labels.astype(np.uint8)
    )


if __name__ == "__main__":
    main()
