"""The page of a proof, read as a browser reads it."""

import copy
import json
import math
import re

import onnx
import pytest
import torch
from command_line import run
from networks import SMALL, trained
from onnx import numpy_helper
from read_page import Page

from levit_deploy.bench import beside
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import BackendError
from levit_deploy.report.page.charts import BAR, bar, histogram
from levit_deploy.report.page.markup import element, to_html
from levit_deploy.report.page.proof_page import proof_page
from levit_deploy.timing import Ratio

AWKWARD = 'a <b>&amp; "q" \x1b[2J\n.onnx'
SHOWN = r'a <b>&amp; "q" \x1b[2J\n.onnx'


ACCURACY = {
    "pictures": 300,
    "agreement": 99.0,
    "float_top1": 80.0,
    "int8_top1": 80.33,
    "changed_for_better": 2,
    "changed_for_worse": 1,
    "drop": -0.33,
    "largest_drop": 1.21,
    "allowed": 1.5,
    "shown": True,
    "summary": "lost -0.33, as it stands",
    "failures": [],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    torch.save({"model": trained().state_dict()}, folder / "ckpt.pth")
    assert run("export", folder / "ckpt.pth", "-o", folder / AWKWARD, "-q")[0] == 0
    return folder


def test_a_page_has_the_evidence_and_needs_nothing_else(folder):
    page, data = folder / "proof.html", folder / "proof.json"
    code, out, _ = run(
        "verify", folder / "ckpt.pth", folder / AWKWARD, "--report", page, "--json", data
    )
    assert code == 0
    assert "together" in out  # the table is printed as well

    proof = json.loads(data.read_text())["verification"]
    read = Page(page.read_text(encoding="utf-8"))
    assert read.text.split(":")[0].strip() == "Proven"
    for case in proof["cases"]:
        for figure in (case["rmse"], case["max_error"], *case["budget"].values()):
            assert f"{figure:.1e}" in read.text
    for block in proof["blocks"]:
        assert f"{block['name']} {block['rmse']:.1e} {block['allowed']:.1e}" in read.text
    for fact in (proof["sha256"], proof["checkpoint"]["sha256"], proof["versions"]["torch"]):
        assert fact in read.text
    logits = sum(case["images"] for case in proof["cases"]) * 7
    assert f"All {logits} errors of logits" in read.text
    assert "FAILED" not in read.text

    tags = {tag for tag, _ in read.tags}
    assert not tags & {"script", "link", "img", "iframe", "b"}
    assert not any(name in ("src", "href") for _, attributes in read.tags for name in attributes)
    assert "url(" not in page.read_text()
    assert "\x1b" not in page.read_text()
    assert "prefers-color-scheme: dark" in page.read_text()
    assert SHOWN in read.text.replace("  ", " ")


@pytest.fixture(scope="module")
def evidence(folder):
    """What a page is made of, of a right artifact."""
    from levit_deploy.cli.reporting import Reporting
    from levit_deploy.pipeline import verify

    checkpoint = read_checkpoint(folder / "ckpt.pth")
    found = verify(checkpoint, folder / AWKWARD)
    page, data = folder / "evidence.html", folder / "evidence.json"
    reporting = Reporting(json=str(data), quiet=True, force=True, page=page)
    reporting.proven(found, checkpoint, folder / AWKWARD)
    return json.loads(data.read_text())


def read_page(folder, evidence):
    page = folder / "made.html"
    page.write_text(proof_page(evidence), encoding="utf-8")
    return Page(page.read_text(encoding="utf-8"))


def test_a_page_names_the_assumptions_that_the_verdict_rests_on(folder, evidence):
    page = folder / "conditional.html"
    page.write_text(proof_page(evidence))
    assert "Proven, if the activation is hardswish" in Page(page.read_text(encoding="utf-8")).text


def test_a_page_is_read_aloud_and_scrolled_by_the_keyboard(folder, evidence):
    tags = read_page(folder, evidence).tags
    assert [tag for tag, _ in tags].count("main") == 1
    scopes = [attributes.get("scope") for tag, attributes in tags if tag == "th"]
    assert set(scopes) == {"col", "row"}
    tables = sum(tag == "table" for tag, _ in tags)
    assert sum(tag == "tbody" for tag, _ in tags) == tables
    boxes = [attributes for _, attributes in tags if attributes.get("class") == "wide"]
    assert len(boxes) == tables - 1  # the facts are as narrow as any window
    for box in boxes:
        assert (box["tabindex"], box["role"]) == ("0", "region")
        assert box["aria-label"]
    chart = next(attributes for tag, attributes in tags if attributes.get("role") == "img")
    assert re.match(r"Histogram of \d+ errors: 0 beyond the error allowed, ", chart["aria-label"])


def test_the_speed_says_no_more_than_three_rounds_of_four_do(folder, evidence):
    beside = evidence["beside_original"]
    assert beside["verdict"] == Ratio(**beside["ratio"]).verdict
    ratio = {"median": 1.04, "low": 0.93, "high": 1.21}
    beside = {**beside, "ratio": ratio, "verdict": Ratio(**ratio).verdict}
    read = read_page(folder, {**evidence, "beside_original": beside})
    assert "level: 0.93 to 1.21 x" in read.text
    assert "1.0 x" not in read.text


def test_an_infinite_error_of_a_block_is_beyond_the_line(folder, evidence):
    proof = copy.deepcopy(evidence["verification"])
    for block in proof["blocks"]:
        block["rmse"] = 0.1 * block["allowed"]
    proof["blocks"][0]["rmse"] = math.inf
    tags = read_page(folder, {**evidence, "verification": proof}).tags
    bad = next(i for i, (_, attributes) in enumerate(tags) if attributes.get("class") == "bad")
    (_, infinite), (_, line) = tags[bad : bad + 2]
    assert float(infinite["width"]) == BAR
    assert float(line["x1"]) < 0.9 * BAR


@pytest.mark.parametrize(("top1", "doubtful"), [(80.0, False), (18.2, True), (None, False)])
def test_labels_that_do_not_fit_are_told_on_the_page_too(folder, evidence, top1, doubtful):
    accuracy = {**ACCURACY, "float_top1": top1, "int8_top1": top1}
    proof = {**evidence["verification"], "accuracy": accuracy}
    read = read_page(folder, {**evidence, "verification": proof})
    assert ("In float32 only 18.20 % are right, so this says little" in read.text) == doubtful


@pytest.mark.parametrize("shown", [True, False])
def test_the_page_tells_how_sure_the_accuracy_of_int8_is(folder, evidence, shown):
    proof = {**evidence["verification"], "accuracy": {**ACCURACY, "shown": shown}}
    text = " ".join(read_page(folder, {**evidence, "verification": proof}).text.split())
    assert "changed for the better 2 pictures changed for the worse 1 picture" in text
    assert "Lost -0.33, as it stands." in text
    limit = "lost at most 1.3 points, with 95 % confidence"
    assert f"{limit} {'proven' if shown else 'too few pictures'}" in text
    assert ("The pictures are too few to be sure of that." in text) != shown


def test_a_page_calls_things_by_their_names(folder, evidence):
    proof = copy.deepcopy(evidence["verification"])
    proof["output"] = "probabilities"
    proof["cases"][0] |= {"decided": 0, "disagreements": 0}
    read = read_page(folder, {**evidence, "verification": proof})
    assert "none decided" in read.text
    assert "0/0" not in read.text
    assert "Errors of logits" not in read.text
    assert "errors of log-probabilities" in read.text


def test_the_page_of_features_has_no_top1(folder, evidence):
    proof = copy.deepcopy(evidence["verification"])
    proof |= {"output": "feature-maps", "head": "none"}
    for case in proof["cases"]:
        case |= {"decided": None, "disagreements": None, "name": f"{case['name']}, stage1"}
    read = read_page(folder, {**evidence, "verification": proof})
    assert "same top-1" not in read.text
    assert "Errors of feature maps" in read.text
    assert "normal, stage1" in read.text


def test_the_page_of_a_failed_proof_says_what_failed_and_where(folder, monkeypatch):
    model = onnx.load(folder / AWKWARD)
    weight = next(w for w in model.graph.initializer if w.name == "blocks.3.m.0.bias")
    array = numpy_helper.to_array(weight).copy()
    array[0] += 0.1
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, folder / "wrong.onnx")
    page = folder / "wrong.html"
    code, _, err = run("verify", folder / "ckpt.pth", folder / "wrong.onnx", "--report", page)
    assert code == 1
    assert "parts from the original first at blocks.3" in err
    read = Page(page.read_text(encoding="utf-8"))
    assert read.text.strip().startswith("Not proven: ")
    assert "parts from the original first at blocks.3" in read.text
    assert "FAILED" in read.text
    bad = [tag for tag, attributes in read.tags if attributes.get("class") == "bad"]
    assert {"td", "rect"} <= set(bad)

    def cannot(*_):
        raise BackendError("the machine is too busy")

    # where the page cannot be made, the proof has failed all the same
    monkeypatch.setattr(beside, "time_beside_original", cannot)
    page.unlink()
    code, _, err = run("verify", folder / "ckpt.pth", folder / "wrong.onnx", "--report", page)
    assert code == 1
    assert "Do not ship it. the machine is too busy" in err
    assert not page.exists()


@pytest.mark.parametrize("name", ["ckpt.pth", AWKWARD, "old.html"])
def test_what_must_not_be_replaced_is_not(folder, name):
    (folder / "old.html").write_text("old")
    before = (folder / name).read_bytes()
    forced = () if name == "old.html" else ("--force",)
    code, _, err = run(
        "verify", folder / "ckpt.pth", folder / AWKWARD, "--report", folder / name, *forced
    )
    assert code == 5
    assert "--report" in err
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize("cause", ["other classes", "no graph", "no checkpoint"])
def test_no_earlier_verdict_outlives_a_proof_that_comes_to_none(folder, cause):
    page, data, checkpoint = folder / "proof.html", folder / "proof.json", folder / "ckpt.pth"
    page.write_text("Proven")
    data.write_text('{"passed": true}')
    artifact = folder / AWKWARD
    if cause == "other classes":
        checkpoint = folder / "other.pth"
        torch.save(trained(SMALL.replace(num_classes=6)).state_dict(), checkpoint)
    elif cause == "no graph":
        artifact = folder / "none.onnx"
        artifact.write_text("none")
    else:
        checkpoint = artifact
    arguments = ("verify", checkpoint, artifact, "--report", page, "--json", data)
    assert run(*arguments)[0] == 5
    assert page.exists()  # without --force, nothing is touched
    assert run(*arguments, "--force")[0] == (1 if cause == "other classes" else 3)
    assert not page.exists()
    assert not data.exists()


def test_a_page_cannot_go_to_standard_output(folder, monkeypatch):
    monkeypatch.chdir(folder)
    code, _, err = run("verify", "ckpt.pth", AWKWARD, "--report", "-")
    assert code == 2
    assert "--report - names no file" in err
    assert not (folder / "-").exists()


def test_every_text_and_attribute_is_escaped():
    made = element("p", "<i>", element("br"), "&\ud800\x00", title='"><script>')
    assert to_html(made) == (
        "<!doctype html>\n"
        r'<p title="&quot;&gt;<script&gt;">&lt;i&gt;<br>&amp;\ud800\x00</p>' + "\n"
    )


def test_a_histogram_is_as_high_as_its_counts_and_marks_what_is_beyond():
    chart = histogram([4, 0, 2, 1], [0.01, 0.1, 1, 10, 100], 1, "errors")
    bars = chart.findall("rect")
    heights = [float(rect.get("height")) for rect in bars]
    assert [height / heights[0] for height in heights] == pytest.approx([1, 0.5, 0.25], abs=0.01)
    assert [rect.get("class") for rect in bars] == ["bar", "bad", "bad"]
    told = [rect.find("title").text.split(",")[0] for rect in bars]
    assert told == ["4 errors", "2 errors", "1 error"]
    said = "Histogram of 7 errors: 3 beyond the error allowed, most between 0.01 and 0.1 times it."
    assert chart.get("aria-label") == said
    middle = float(chart.findall("line")[-1].get("x1"))  # 1 is in the middle of the four decades
    assert float(bars[1].get("x")) == pytest.approx(middle, abs=1)
    assert not histogram([0, 0], [1, 2, 3], 2, "").findall("rect")


@pytest.mark.parametrize(
    ("value", "limit", "kind", "length"),
    [(0.5, 1, "bar", 40), (2, 1, "bad", 160), (float("inf"), 1, "bad", 160), (1, None, "bar", 80)],
)
def test_a_bar_is_as_long_as_its_value(value, limit, kind, length):
    drawn = bar(value, limit, 2).find("rect")
    assert (drawn.get("class"), float(drawn.get("width"))) == (kind, length)
