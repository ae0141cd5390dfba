"""What int8 costs the demo's network, and what saturating sums would, on real scanned digits.

    pip install -c constraints.txt . scikit-learn
    python examples/quantize_digits.py

Calibrates on 64 scans of the training part and answers the 360 held-out ones: in float32, and in
int8 with weights within 64 (``any``) and within 127 (``vnni``), by the runtime and computed
literally, node by node in floats. Where a processor without VNNI adds products up in 16 bits, the
two differ by what saturates.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from levit_deploy.arrays import FloatArray
from levit_deploy.choices import CPUS
from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.demo.digits import held_out, to_input
from levit_deploy.interface import INPUT_NAME
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.calibration import quantize_graph
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.onnx_writer import to_onnx

CALIBRATING = 64


def calibration_scans() -> FloatArray:
    """Scans that are not held out, evenly spread."""
    held = {image.tobytes() for image in held_out().images}
    every = to_input(load_digits().images.astype(np.uint8))
    others = np.stack([image for image in every if image.tobytes() not in held])
    return others[:: len(others) // CALIBRATING][:CALIBRATING]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = read_demo_checkpoint(Path(folder))
    provenance = Provenance(
        checkpoint_sha256=checkpoint.sha256, config=checkpoint.config, head="mean", layout="tokens"
    )
    plain = to_onnx(to_plain(checkpoint.model), provenance)
    digits, scans = held_out(), calibration_scans()

    def logits(data: bytes, literal: bool = False) -> FloatArray:
        session = onnx_session(data, 1, literal=literal)
        return np.asarray(session.run(None, {INPUT_NAME: digits.images})[0])

    def top1(found: FloatArray) -> str:
        return f"{(found.argmax(1) == digits.labels).mean():8.2%}"

    expected = logits(plain.SerializeToString())
    print(f"float32:             top-1 {top1(expected)}")
    for cpu in CPUS:
        data = quantize_graph(plain, scans, "MinMax", cpu).SerializeToString()
        found, literal = logits(data), logits(data, literal=True)
        same = (found.argmax(1) == expected.argmax(1)).sum()
        apart = np.sqrt(np.mean((found - literal) ** 2))
        print(
            f"int8 for {cpu:5} runtime top-1 {top1(found)}, literally {top1(literal)}; the same as "
            f"float32 on {same} of {len(found)}; runtime and literal differ by RMSE {apart:.1e}"
        )


if __name__ == "__main__":
    main()
