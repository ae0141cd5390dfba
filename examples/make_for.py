"""The file for one place, made from a checkpoint and proven, and what to ship with it.

    pip install -c constraints.txt .
    python examples/make_for.py android digits.pth --labels labels.txt

The places: server, gpu, android, ios, browser and pi, a Raspberry Pi or the like. A JSON file
beside the artifact tells your program how to prepare pictures, and what the classes are called.
docs/runtimes.md has the reasons.
"""

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import levit_deploy

PLAIN = levit_deploy.ExportOptions()
# an app has bytes, and wants the probabilities of one picture
APP = levit_deploy.ExportOptions(input="uint8", output="probabilities", batch_size=1)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is made for a place, how it is run there, and the script that runs it here."""

    format: str
    suffix: str
    precision: str = "fp32"
    options: levit_deploy.ExportOptions = PLAIN
    runtime: str
    script: str


PLACES = {
    "server": Place(
        format="onnx",
        suffix=".onnx",
        runtime="onnxruntime, from pip, or in any other language",
        script="run_onnxruntime.py",
    ),
    "gpu": Place(
        format="onnx",
        suffix=".fp16.onnx",
        precision="fp16",
        runtime="onnxruntime-gpu, from pip, with CUDA",
        script="run_onnxruntime_gpu.py",
    ),
    "android": Place(
        format="litert",
        suffix=".tflite",
        options=APP,
        runtime="LiteRT, com.google.ai.edge.litert:litert from Google's Maven repository",
        script="run_litert.py",
    ),
    "ios": Place(
        format="executorch",
        suffix=".pte",
        options=APP,
        runtime="ExecuTorch's Swift package with its XNNPACK backend",
        script="run_executorch.py",
    ),
    "browser": Place(
        format="onnx",
        suffix=".web.onnx",
        options=dataclasses.replace(APP, opset=23),  # the faster form there, too
        runtime="examples/web with onnxruntime-web, from npm",
        script="web/serve.py",
    ),
    "pi": Place(
        format="litert",
        suffix=".tflite",
        options=APP,
        runtime="ai-edge-litert, from pip",
        script="run_litert.py",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", choices=PLACES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="named as the checkpoint is")
    parser.add_argument("--labels", type=Path, help="a file with the names of the classes")
    parser.add_argument("--preprocessing", help="as levit-deploy export takes it")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    args = parser.parse_args()

    place = PLACES[args.place]
    output = args.output or Path(args.checkpoint.stem + place.suffix)
    description = Path(f"{output}.json")
    if description.exists() and not args.force:
        raise SystemExit(f"{description} exists. Add --force to replace it.")
    try:
        checkpoint = levit_deploy.load(
            args.checkpoint, labels=args.labels, preprocessing=args.preprocessing
        )
        published = levit_deploy.export(
            checkpoint,
            place.format,
            output,
            precision=place.precision,
            options=place.options,
            force=args.force,
        )
    except levit_deploy.LevitDeployError as error:
        raise SystemExit(str(error)) from error

    config, options = checkpoint.config, place.options
    height, width = config.image_size
    shape = [config.in_channels, height, width]
    facts = {
        "input": options.input,
        "shape": [*shape[1:], shape[0]] if options.input == "uint8" else shape,  # without the batch
        "output": options.output,
        "preprocessing": json.loads(checkpoint.preprocessing.to_json()),
        "labels": checkpoint.labels,
        "checkpoint_sha256": checkpoint.sha256,
    }
    description.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"{output}: {published.size_bytes / 1e6:.2f} MB, proven")
    print(f"takes {options.input} {facts['shape']}, gives {options.output}")
    print(f"pictures: {checkpoint.preprocessing}")
    print(f"ship: {output} and {description}")
    print(f"runs in: {place.runtime}")
    print(f"try it: examples/{place.script}")


if __name__ == "__main__":
    main()
