"""A fine-tuned timm LeViT to int8: as right as it was, smaller, and faster.

    pip install -c constraints.txt .
    python examples/timm_to_int8.py CHECKPOINT DIR -o levit.int8.onnx

CHECKPOINT is what timm saved: a folder with model.safetensors and config.json, or the weights of
its train.py. DIR has pictures such as the network will meet, in a folder for each class: a quarter
of them calibrate, the others judge. Nothing is written that is less right than --max-drop allows,
or, without --even-if-slower, no faster than float32 on this machine.
"""

import argparse
from pathlib import Path

import levit_deploy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("levit.int8.onnx"))
    parser.add_argument("--max-drop", type=float, help="points of top-1; 0.3 if not given")
    parser.add_argument("--even-if-slower", action="store_true")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args()

    int8 = levit_deploy.Int8Options(
        args.pictures, args.max_drop, even_if_slower=args.even_if_slower
    )
    try:
        checkpoint = levit_deploy.load(args.checkpoint)
        published = levit_deploy.quantize(checkpoint, args.output, int8, force=args.force)
    except levit_deploy.LevitDeployError as error:
        raise SystemExit(f"Not published: {error}") from error

    how = published.quantization
    before = sum(file.stat().st_size for file in checkpoint.files)
    print(f"{published.path}: {published.size_bytes / 1e6:.2f} MB of {before / 1e6:.2f}")
    print(f"speed: {how.speed.median:.2f} x the best float32 file on this machine")
    print(how.accuracy.sentence)
    if how.accuracy.float_top1 is not None:
        print(f"top-1: {how.accuracy.float_top1:.2f} %, in int8 {how.accuracy.int8_top1:.2f} %")
    print(f"left in float32: {', '.join(how.left_in_float) or 'nothing'}")

    try:
        answered = levit_deploy.predict(args.output, args.pictures, top_k=1)
        picture = next(found for found in answered if found.answers)
        print(f"{picture.path}: {picture.answers[0].label or picture.answers[0].index}")
    except levit_deploy.LevitDeployError as error:
        raise SystemExit(f"Published, but it has no answers: {error}") from error


if __name__ == "__main__":
    main()
