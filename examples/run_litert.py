"""What a picture shows, by LiteRT alone: prints the five likeliest classes.

    pip install ai-edge-litert pillow
    python examples/run_litert.py digits.tflite photo.jpg another.png

For Linux on small machines, such as a Raspberry Pi: neither torch nor levit-deploy is imported, and
the two packages bring numpy. How a picture becomes an input, and what the classes are called, is in
the artifact's metadata. ``--threads N`` computes on more than one core. The channels of the input
come last, float32 or uint8 (batch, height, width, channels).
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps


def read_metadata(artifact: bytes) -> dict[str, str]:
    """The strings that levit-deploy wrote into a .tflite file."""
    model = schema.Model.GetRootAs(artifact)
    for entry in map(model.Metadata, range(model.MetadataLength())):
        if entry.Name() == b"levit-deploy":
            return json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    raise SystemExit("The file has no metadata of levit-deploy. Export it again.")


def fit(path: Path, shape: tuple[int, int, int], how: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Resize and crop the middle: uint8 (height, width, channels)."""
    if how["unsupported"]:
        raise SystemExit(f"Pictures cannot be prepared for this network: {how['unsupported']}.")
    height, width, channels = shape
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith(("I", "F")):
        raise SystemExit(f"{path} has more than 8 bits a channel. Convert it.")
    picture = picture.convert("RGBA" if picture.mode in ("P", "PA") else picture.mode)
    picture = picture.convert("L" if channels == 1 else "RGB")

    rows, columns = (math.floor(side / how["crop_fraction"]) for side in (height, width))
    square = rows == columns  # which torchvision resizes; others are for timm, to the last bit
    tall, wide = picture.height, picture.width
    resize = how.get("resize", "cover")
    if resize not in ("cover", "stretch"):
        raise SystemExit(f"Pictures for this network are resized by {resize!r}, not known here.")
    if resize == "stretch":
        pass  # to the sides as they are
    elif tall * columns <= wide * rows:
        columns = int(rows * wide / tall) if square else round(wide / (tall / rows))
    else:
        rows = int(columns * tall / wide) if square else round(tall / (wide / columns))
    picture = picture.resize((columns, rows), Image.Resampling[how["interpolation"].upper()])
    half = math.floor if how.get("truncated") else round  # as transformers, as torchvision
    top, left = half((rows - height) / 2), half((columns - width) / 2)
    picture = picture.crop((left, top, left + width, top + height))
    return np.asarray(picture, np.uint8).reshape(shape)


def normalise(pixels: npt.NDArray[np.uint8], how: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Scale to 0..1 and normalise: float32 (channels, height, width)."""
    mean, std = np.array(how["mean"], np.float32), np.array(how["std"], np.float32)
    if pixels.shape[-1] == 1:  # of three colours, where the network was trained on grey
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    return ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    args = parser.parse_args()

    artifact = args.artifact.read_bytes()
    metadata = read_metadata(artifact)
    how, labels = json.loads(metadata["preprocessing"]), json.loads(metadata["labels"])
    if how["assumed"]:
        print("No config said how pictures are prepared. It is as for ImageNet.", file=sys.stderr)
    if metadata["output"] not in ("logits", "probabilities"):
        raise SystemExit(f"The network gives {metadata['output']}, and no classes.")
    interpreter = Interpreter(model_content=artifact, num_threads=args.threads)
    interpreter.allocate_tensors()
    (given,), (gives,) = interpreter.get_input_details(), interpreter.get_output_details()
    usual = "single_label_classification"
    if metadata["problem_type"] != usual or gives["shape"][-1] == 1:
        raise SystemExit("The network's logits are not for one class of several.")

    batch, *shape = given["shape"].tolist()
    for path in args.pictures:
        image = fit(path, tuple(shape), how)
        if metadata["input"] == "float32":  # bytes are normalised inside
            image = normalise(image, how).transpose(1, 2, 0)
        interpreter.set_tensor(given["index"], np.stack([image] * batch))
        interpreter.invoke()
        answers = interpreter.get_tensor(gives["index"])[0]
        probabilities, said = answers, [""] * len(answers)
        if metadata["output"] == "logits":
            said = [f"  logit {logit:<14.9g}" for logit in answers]
            probabilities = np.exp(answers - answers.max())
            probabilities /= probabilities.sum()
        print(path)
        for index in np.argsort(-answers, kind="stable")[:5]:
            name = labels[index] if labels else f"class {index}"
            print(f"  {probabilities[index]:7.2%}{said[index]}  {name}")


if __name__ == "__main__":
    main()
