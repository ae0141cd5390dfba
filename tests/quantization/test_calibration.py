import numpy as np
import onnx
import pytest
from float_graphs import int8_form, noise, rounded
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization.calibrate import HistogramCollector

from levit_deploy.quantization.calibration import METHODS, observed_ranges
from levit_deploy.runtime.sessions import runner


@pytest.fixture(scope="module")
def ranges(form):
    return observed_ranges(form, noise(8) ** 3)  # with rare numbers to cut off


def test_every_point_has_a_range_by_every_method(form, ranges):
    assert ranges.keys() == set(METHODS)
    for of_values in ranges.values():
        assert of_values.keys() == set(form.places().points)
        assert all(low <= high for low, high in of_values.values())


def test_min_and_max_are_those_of_another_runtime(form):
    model, points = form.unrounded(), form.places().points
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in points)
    images = noise(9)  # more than a batch
    values = ReferenceEvaluator(shown).run(list(points), {"pixel_values": images})
    found = observed_ranges(form, images)["MinMax"]
    for name, value in zip(points, values, strict=True):
        np.testing.assert_allclose(found[name], (value.min(), value.max()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["Percentile", "Entropy"])
def test_the_others_cut_off_as_onnxruntime_does(form, ranges, method, tmp_path):
    """Beside its own calibrator on the same graph."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    onnx.save(form.unrounded(), tmp_path / "plain.onnx")
    given = iter([{"pixel_values": noise(8) ** 3}])

    class Reader:
        def get_next(self):
            return next(given, None)

    calibrator = create_calibrator(
        tmp_path / "plain.onnx",
        ["Gemm"],
        augmented_model_path=str(tmp_path / "shown.onnx"),
        calibrate_method=CalibrationMethod[method],
    )
    calibrator.collect_data(Reader())
    theirs = calibrator.compute_data()
    shared = [name for name in ranges[method] if name in theirs.keys()]  # noqa: SIM118
    assert len(shared) > 20
    for name in shared:
        expected = tuple(float(end) for end in theirs[name].range_value)
        assert ranges[method][name] == pytest.approx(expected, rel=1e-3)
    narrower = [name for name in shared if ranges[method][name] != ranges["MinMax"][name]]
    assert narrower or method == "Entropy"  # which finds nothing rare here


@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_near_the_float_network(form, plain, method):
    model = rounded(form, noise(8), method=method)
    images = noise(4, seed=1)
    expected, found = (runner(m.SerializeToString(), None)(images) for m in (plain, model))
    apart = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    assert 1e-4 < apart < 0.3


def test_calibration_repeats_itself_and_says_nothing(form, capfd, caplog):
    first, second = (observed_ranges(form, noise(6)) for _ in range(2))
    assert first == second
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("batch_size", [None, 2])
def test_each_image_counts(batch_size):
    form, images = int8_form(batch_size=batch_size), noise(5)
    images[4] *= 2
    low, high = observed_ranges(form, images)["MinMax"]["pixel_values"]
    assert (low, high) == (images.min(), images.max())


def test_a_value_that_is_always_zero_has_a_range(form):
    ranges = observed_ranges(form, np.zeros_like(noise(2)))
    assert ranges["Entropy"]["pixel_values"] == (0, 0)


def test_numbers_that_onnxruntime_finds_no_entropy_for_keep_their_range(form, monkeypatch):
    """It asserts that of 10,000 bins more than one is full; to fill so few takes it a minute."""
    find = HistogramCollector.get_entropy_threshold

    def finding(collector, histogram, bins):
        assert histogram[3] < 2.5  # the largest number
        return find(collector, histogram, bins)

    monkeypatch.setattr(HistogramCollector, "get_entropy_threshold", finding)
    images = noise(4)
    images[0, 0, 0, 0] = 5
    ranges = observed_ranges(form, images)
    assert ranges["Entropy"]["pixel_values"] == ranges["MinMax"]["pixel_values"]
    assert ranges["Percentile"] != ranges["MinMax"]
