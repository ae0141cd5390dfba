"""Prove artifacts once more, as computed by every other runtime that is installed.

    pip install -c constraints.txt . openvino opencv-python-headless
    (cd examples/node && npm install --ignore-scripts)
    python examples/verify_in_runtimes.py digits.pth digits.onnx --cpp build/run

ONNX files go through OpenVINO, OpenCV, onnx's reference evaluator and onnxruntime in Node,
TorchScript through the program of ``examples/cpp``, where ``--cpp`` names it. Each is held to the
budget that ``levit-deploy verify`` holds onnxruntime or torch to (docs/verification.md): on every
kind of input, alone and in batches. Of int8 this proves what is computed, not what rounding costs.
Prints the RMSE on normal noise and the largest error in budgets; exits with 1 where one is over it,
or where none of these runtimes is installed.
"""

import argparse
import importlib
import importlib.metadata
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import levit_deploy
from levit_deploy.arrays import FloatArray
from levit_deploy.checkpoint import Checkpoint
from levit_deploy.errors import first_line
from levit_deploy.provenance import claimed_precision
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.load import load_artifact
from levit_deploy.verification.measure import measure
from levit_deploy.verification.original import original_of

Run = Callable[[FloatArray], FloatArray]

PYTHON = {
    "run_openvino": ("OpenVINO", "openvino"),
    "run_opencv": ("OpenCV", "opencv-python-headless"),
    "run_reference": ("onnx.reference", "onnx"),
}
NODE = Path(__file__).parent / "node"
NODE_PACKAGE = NODE / "node_modules" / "onnxruntime-node" / "package.json"


def by_program(command: Sequence[str | Path]) -> Run:
    """Have a program print the logits of a file of images."""

    def run(images: FloatArray) -> FloatArray:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npy"
            np.save(path, images)
            done = subprocess.run([*command, path], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return np.array([line.split() for line in done.stdout.splitlines()], np.float32)

    return run


def runtimes(artifact: Artifact, cpp: Path | None) -> Iterator[tuple[str, Callable[[], Run]]]:
    """The runtimes that are installed, each with what loads the artifact into it."""
    path = str(artifact.path)
    if artifact.format == "torchscript" and cpp is not None:
        yield "libtorch", lambda: by_program([cpp.resolve(), path])
    if artifact.format != "onnx":
        return
    for script, (name, package) in PYTHON.items():
        try:
            load = importlib.import_module(script).load
        except ImportError:
            continue
        version = importlib.metadata.version(package)
        yield f"{name} {version}", lambda load=load: load(path)
    if NODE_PACKAGE.exists() and (node := shutil.which("node")):
        version = json.loads(NODE_PACKAGE.read_text())["version"]
        yield f"onnxruntime-node {version}", lambda: by_program([node, NODE / "run.mjs", path])


def prove(checkpoint: Checkpoint, path: Path, cpp: Path | None) -> bool:
    """Print a line for each runtime; whether there are any, and all compute what they should."""
    artifact = load_artifact(path)
    original = original_of(checkpoint, artifact)
    precision = claimed_precision(artifact.metadata)
    literal = load_artifact(path, literal=True).run if precision == "int8" else None
    verdicts = []
    for name, load in runtimes(artifact, cpp):
        try:
            found = measure(
                original, replace(artifact, run=load()), precision=precision, literal=literal
            )
        except Exception as error:  # each runtime has its own
            print(f"{path.name:28} {name:26} does not run: {first_line(error)}")
            verdicts.append(False)
            continue
        normal = found.cases[0]
        excesses = [case.excess for case in found.cases]
        excesses += [batch.difference / batch.allowed for batch in found.batches]
        print(
            f"{path.name:28} {name:26} RMSE {normal.rmse:.1e} of {normal.budget.rmse:.1e}, "
            f"worst {max(excesses):.2f}, {'proven' if found.passed else 'FAILED'}"
        )
        verdicts.append(found.passed)
    if not verdicts:
        print(f"{path.name:28} is not proven: no other runtime for {artifact.format} was found")
    return bool(verdicts) and all(verdicts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--cpp", type=Path, metavar="PROGRAM")
    parser.add_argument("--preprocessing", help="as it was given to levit-deploy export")
    args = parser.parse_args()
    try:
        checkpoint = levit_deploy.load(args.checkpoint, preprocessing=args.preprocessing)
        proven = [prove(checkpoint, path, args.cpp) for path in args.artifacts]
    except (levit_deploy.LevitDeployError, ValueError) as error:
        raise SystemExit(str(error)) from error
    raise SystemExit(not all(proven))


if __name__ == "__main__":
    main()
