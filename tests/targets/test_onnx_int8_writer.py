"""The rounded forms of any network: in float the same function, and then its rounding."""

import numpy as np
import onnx
import torch
from float_graphs import int8_form
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import configs, float64_logits, trained
from optimised import float_products, optimised

from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.quantization.calibration import observed_ranges
from levit_deploy.runtime.sessions import runner
from levit_deploy.targets.onnx_contract import broken_clauses
from levit_deploy.targets.onnx_int8_check import check_rounding
from levit_deploy.targets.onnx_rounding import Rounding
from levit_deploy.targets.onnx_schemes import ON_BYTES, W8A16

PREPROCESSINGS = [
    Preprocessing(),
    Preprocessing(mean=(0.5,), std=(0.01,)),
    Preprocessing(mean=(0.0,), std=(1.0,)),
    Preprocessing(mean=(0.5, 0.0, 0.2), std=(0.3,)),
]


@st.composite
def forms(draw):
    """A network, its int8 form, and images as that takes them, and as the network does."""
    input, output = draw(st.sampled_from(["float32", "uint8"])), "logits"
    config, preprocessing = draw(configs()), draw(st.sampled_from(PREPROCESSINGS))
    if input == "uint8":
        config = config.replace(in_channels=3)
    if config.num_classes > 1:
        output = draw(st.sampled_from(["logits", "probabilities"]))
    model, scheme = trained(config), draw(st.sampled_from([ON_BYTES, W8A16]))
    form = int8_form(
        config,
        draw(st.sampled_from(["tokens", "spatial"])),
        model,
        input,
        output,
        preprocessing,
        opset=draw(st.sampled_from([21, 23] if scheme == W8A16 else [13, 17, 20, 23])),
        batch_size=draw(st.sampled_from([None, 1, 3])),
        scheme=scheme,
    )
    rng = np.random.default_rng(0)
    if input == "uint8":
        given = rng.integers(0, 256, (4, *config.image_size, 3), dtype=np.uint8)
        images = (given / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
        return model, form, given, torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    given = rng.standard_normal((4, config.in_channels, *config.image_size), dtype=np.float32)
    return model, form, given, torch.from_numpy(given)


@settings(deadline=None, max_examples=6)
@given(forms(), st.sampled_from(["any", "vnni"]), st.sampled_from([1, 2]))
def test_any_network_is_rounded_and_nothing_else(tmp_path_factory, drawn, cpu, in_float):
    model, form, given, images = drawn
    plain = form.unrounded()
    onnx.checker.check_model(plain, full_check=True)
    logits = float64_logits(model, images)
    found = runner(plain.SerializeToString(), form.batch_size)(given)
    if form.provenance.interface.output == "probabilities":
        powers = np.exp(logits - logits.max(1, keepdims=True))
        assert np.abs(found - powers / powers.sum(1, keepdims=True)).max() < 1e-4
    else:
        assert np.abs(found - logits).max() <= 1e-4 * np.abs(logits).max()

    ranges, floats = observed_ranges(form, given)["MinMax"], form.places().parts[::in_float]
    on_bytes = form.rounded(Rounding(ranges=ranges, cpu=cpu))
    some = form.rounded(Rounding(ranges=ranges, cpu=cpu, floats=floats))
    for quantized in (on_bytes, some):
        onnx.checker.check_model(quantized, full_check=True)
        assert broken_clauses(quantized, form.provenance.interface) == []
        check_rounding(quantized, plain)
        assert np.isfinite(runner(quantized.SerializeToString(), form.batch_size)(given)).all()
    if form.scheme == ON_BYTES:
        assert float_products(optimised(on_bytes, tmp_path_factory.mktemp("run"))) == []
