"""The README's picture is drawn out of a benchmark's report."""

import json

import pytest
from example_scripts import script
from PIL import Image

FASTER = {"median": 1.2, "low": 1.1, "high": 1.3}


@pytest.fixture
def report(tmp_path):
    rows = [
        {
            "name": "spatial",
            "runtime": runtime,
            "batch_size": 1,
            "median_s": 0.03,
            "ratio": FASTER,
            "verdict": "faster",
        }
        for runtime in ("onnxruntime", "onnxruntime", "openvino")
    ]
    path = tmp_path / "speed.json"
    data = {"network": "LeViT-256", "threads": 1, "processor": "a processor", "rows": rows}
    path.write_text(json.dumps(data))
    return path


def test_plot_speed_draws_one_runtime(report, tmp_path):
    pytest.importorskip("matplotlib", reason="it draws")
    heights = []
    for runtime in ("onnxruntime", "openvino"):
        script("plot_speed.py", report, tmp_path / "speed.png", "--runtime", runtime)
        with Image.open(tmp_path / "speed.png") as drawn:
            heights.append(drawn.height)
    # the second picture lacks one bar
    assert heights[0] - heights[1] == pytest.approx(0.34 * 150, abs=1)


def test_plot_speed_names_the_runtimes_of_the_report(refused, report, tmp_path):
    arguments = (report, tmp_path / "speed.png", "--runtime", "torch")
    assert "Choose from ['onnxruntime', 'openvino']" in refused("plot_speed.py", *arguments)
    assert not (tmp_path / "speed.png").exists()
