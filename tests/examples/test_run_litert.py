"""examples/run_litert.py classifies pictures with the runtime alone."""

import re
import subprocess
import sys

import pytest
from example_scripts import EXAMPLES, TOLD, check_top5, picture, printed_by, script, serialised
from PIL import Image
from prepared import prepare

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.targets.target import ExportOptions

pytestmark = pytest.mark.litert

ALONE = """
import runpy, sys
for name in ("levit_deploy", "torch", "onnx", "onnxruntime"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(),
        ExportOptions(input="uint8", output="probabilities"),
        ExportOptions(batch_size=3, input_name="it"),
    ],
    ids=["float", "bytes", "fixed batch"],
)
def test_it_answers_as_the_original_does_where_little_else_is(files, tmp_path, options):
    checkpoint = read_checkpoint(files / "small.pth", preprocessing=TOLD)
    (tmp_path / "x.tflite").write_bytes(serialised("litert", checkpoint, options))
    path = picture(tmp_path, "colours")
    command = [sys.executable, "-c", ALONE, EXAMPLES / "run_litert.py", tmp_path / "x.tflite", path]
    printed = printed_by(*command)
    with Image.open(path) as opened:
        x = prepare(opened, checkpoint.config, checkpoint.preprocessing)[None]
    check_top5(printed, checkpoint, path, x, logits=options.output == "logits")


def test_grey_pictures_and_labels(files, tmp_path):
    (tmp_path / "labels.txt").write_text("".join(f"digit {i}\n" for i in range(10)))
    checkpoint = read_checkpoint(files / "digits.pth", labels=tmp_path / "labels.txt")
    (tmp_path / "x.tflite").write_bytes(labelled(checkpoint))
    path = picture(tmp_path, "grey")
    printed = script("run_litert.py", tmp_path / "x.tflite", path, "--threads", 2)
    with Image.open(path) as opened:
        x = prepare(opened, checkpoint.config, checkpoint.preprocessing)[None]
    check_top5(printed.replace("  digit ", "  class "), checkpoint, path, x)


def labelled(checkpoint) -> bytes:
    from levit_deploy.targets.formats import target_named
    from levit_deploy.targets.plan import planned

    target = target_named("litert")
    choices = {"head": "mean", "layout": "auto", "precision": "fp32", "options": None}
    return planned(checkpoint, target, **choices).serialize()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ExportOptions(output="features"), "gives features, and no classes"),
        (None, "no metadata of levit-deploy"),
    ],
)
def test_it_says_why_it_cannot_answer(files, tmp_path, options, said):
    checkpoint = read_checkpoint(files / "small.pth")
    data = serialised("litert", checkpoint, options or ExportOptions())
    if options is None:
        data = data.replace(b"levit-deploy\0", b"another-tool\0")
    (tmp_path / "x.tflite").write_bytes(data)
    command = [sys.executable, EXAMPLES / "run_litert.py", tmp_path / "x.tflite"]
    path = picture(tmp_path, "colours")
    done = subprocess.run([*command, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_it_prepares_pictures_by_the_same_lines_as_the_script_for_onnxruntime():
    """Each script is one file to copy, so the two functions are in both."""
    functions = [
        re.search(r"def fit\(.*(?=def main\()", (EXAMPLES / name).read_text(), re.DOTALL)[0]
        for name in ("run_litert.py", "run_onnxruntime.py")
    ]
    assert functions[0] == functions[1]
