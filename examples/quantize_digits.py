"""What int8 and w8a16 cost the demo's network, and saturating sums, on real scanned digits.

    pip install -c constraints.txt . scikit-learn
    python examples/quantize_digits.py [--runtime openvino]

Calibrates on 64 scans of the training part and answers the 360 held-out ones: in float32, in int8
with weights whose sums fit 16 bits (``any``) and without that limit (``vnni``), and in w8a16. The
runtime computes them, and they are computed literally, node by node in floats. If a processor
without VNNI adds products in 16 bits, the two differ by the sums that saturate. Weights are the
nearest, or fitted to the calibration scans; the error is that of the literal logits, in float32's
deviation.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from levit_deploy.arrays import FloatArray
from levit_deploy.choices import CPUS, RUNTIMES, Cpu
from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.demo.digits import held_out, to_input
from levit_deploy.interface import INPUT_NAME
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.calibration import observed_ranges
from levit_deploy.quantization.fit import fitted
from levit_deploy.runtime.compiled import openvino_runner
from levit_deploy.runtime.sessions import filled, onnx_session
from levit_deploy.targets.onnx_int8_writer import Int8Form
from levit_deploy.targets.onnx_opsets import DEFAULT_OPSET, SIXTEEN_BITS_OPSET
from levit_deploy.targets.onnx_rounding import Rounding
from levit_deploy.targets.onnx_schemes import FOR_OPENVINO, ON_BYTES, W8A16

CALIBRATING = 64


def calibration_scans() -> FloatArray:
    """Scans that are not held out, evenly spread."""
    held = {image.tobytes() for image in held_out().images}
    every = to_input(load_digits().images.astype(np.uint8))
    others = np.stack([image for image in every if image.tobytes() not in held])
    return others[:: len(others) // CALIBRATING][:CALIBRATING]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime")
    for_openvino = parser.parse_args().runtime == "openvino"
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = read_demo_checkpoint(Path(folder))
    provenance = Provenance(
        checkpoint_sha256=checkpoint.sha256, config=checkpoint.config, head="mean", layout="tokens"
    )
    model, digits, scans = to_plain(checkpoint.model), held_out(), calibration_scans()
    batch = 1 if for_openvino else None
    int8 = Int8Form(
        model=model,
        provenance=provenance,
        opset=DEFAULT_OPSET,
        batch_size=batch,
        scheme=FOR_OPENVINO if for_openvino else ON_BYTES,
    )
    forms: list[tuple[str, Int8Form, Cpu]] = [(f"int8 for {cpu}", int8, cpu) for cpu in CPUS]
    if not for_openvino:
        w8a16 = replace(int8, opset=SIXTEEN_BITS_OPSET, scheme=W8A16)
        forms.append(("w8a16", w8a16, "vnni"))

    def logits(data: bytes, literal: bool = False) -> FloatArray:
        if for_openvino and not literal:
            compiled = openvino_runner(data, 1)
            return filled(lambda images: compiled(images)[0], batch)(digits.images)
        session = onnx_session(data, 1, literal=literal)
        run = filled(lambda images: session.run(None, {INPUT_NAME: images})[0], batch)
        return run(digits.images)

    def top1(found: FloatArray) -> str:
        return f"{(found.argmax(1) == digits.labels).mean():8.2%}"

    expected = logits(int8.unrounded().SerializeToString(), literal=True)
    print(f"float32:             top-1 {top1(expected)}")
    for kind, form, cpu in forms:
        nearest = Rounding(ranges=observed_ranges(form, scans)["MinMax"], cpu=cpu)
        for name, rounding in (("nearest", nearest), ("fitted", fitted(form, nearest, scans))):
            data = form.rounded(rounding).SerializeToString()
            found, literal = logits(data), logits(data, literal=True)
            same = (found.argmax(1) == expected.argmax(1)).sum()
            apart = np.sqrt(np.mean((found - literal) ** 2))
            error = np.sqrt(np.mean((literal - expected) ** 2)) / expected.std()
            print(
                f"{kind}, {name}: runtime top-1 {top1(found)}, literally {top1(literal)}; "
                f"the same as float32 on {same} of {len(found)}; error {error:.4f}; "
                f"runtime and literal differ by RMSE {apart:.1e}"
            )


if __name__ == "__main__":
    main()
