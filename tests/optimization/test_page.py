"""The page of an optimization, made of data written by hand."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from read_page import Page

from levit_deploy.optimization.page import optimization_page
from levit_deploy.verification.compare import ERROR_EDGES

AWKWARD = 'a <b>&amp; "q" \x1b[2J\n.onnx'
SHOWN = r'a <b>&amp; "q" \x1b[2J\n.onnx'
ACCURACY = {
    **{"pictures": 300, "agreement": 99.0, "float_top1": 80.0, "int8_top1": 79.8},
    **{"changed_for_better": 1, "changed_for_worse": 2, "drop": 0.2, "largest_drop": 0.71},
    **{"allowed": 0.3, "shown": False, "summary": "lost 0.20 points", "failures": []},
}
CASE = {
    **{"name": "normal", "images": 8, "rmse": 1.2e-7, "max_error": 3.4e-7, "failures": []},
    **{"budget": {"rmse": 5.6e-7, "max_error": 7.8e-7}, "decided": 8, "disagreements": 0},
    "histogram": [0] * (len(ERROR_EDGES) - 2) + [8],
}
PROOF = {
    **{"passed": True, "verdict": "proven, if the activation is hardswish", "remarks": []},
    **{"input": "float32", "output": "logits", "head": "mean", "heads": 2, "precision": "fp32"},
    **{"format": "onnx", "runtime": "onnxruntime", "sha256": "12" * 32, "seed": 5},
    **{"checkpoint": {"path": "ckpt.pth", "sha256": "34" * 32}, "reading": "not checked"},
    **{"versions": {"torch": "2.13.0"}, "accuracy": None, "unrounded": None, "blocks": []},
    "graph": None,
    "cases": [CASE],
    "batches": [{"size": 4, "difference": 1e-7, "allowed": 1e-5, "failures": []}],
}
QUANTIZATION = {
    **{
        "cpu": "any",
        "calibrated_on": 300,
        "method": "entropy",
        "errors": {"entropy": 0.02, "minmax": 0.03},
    },
    **{"costs": {"blocks.1": 0.01}, "left_in_float": ["blocks.1"], "accuracy": ACCURACY},
    "speed": None,
}


def candidate(name, runtime, state, median_s=None, drop=None, **more):
    timed = median_s is not None
    return {
        "label": f"{name}, {runtime}",
        **{"name": name, "runtime": runtime, "format": "onnx", "layout": "tokens"},
        **{"precision": "fp32", "opset": None, "state": state, "reason": f"Why {name} is {state}."},
        "command": f"levit-deploy export ckpt.pth -o {name}.onnx",
        **{"rounds": 24 if timed else 0, "median_s": median_s},
        **{"p90_s": 1.1 * median_s if timed else None},
        **{"images_per_s": 1 / median_s if timed else None},
        **{"speed": _speed(0.020 / median_s) if timed else None},
        **{"size_bytes": 12_345_678 if timed else None, "load_s": 0.25 if timed else None},
        **{"drop": drop, "accuracy": None, "quantization": None, "verification": None},
        "file": None,
        **more,
    }


def _speed(median):
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


ROUNDED = PROOF | {"precision": "int8", "accuracy": ACCURACY, "unrounded": PROOF}
CANDIDATES = [
    candidate("plain", "onnxruntime", "slower", 0.020, 0.0),
    candidate("spatial", "openvino", "slower", 0.015, 0.0),
    candidate("untried", "openvino", "slower", 0.030),
    candidate(
        *("int8", "onnxruntime", "winner", 0.008, 0.2),
        **{"accuracy": ACCURACY, "quantization": QUANTIZATION, "verification": ROUNDED},
    ),
    candidate("wrong", "onnxruntime", "refused", 0.004, 0.9, accuracy=ACCURACY),
    candidate("broken", "torch", "failed"),
]
DATA = {
    "checkpoint": {"path": "ckpt.pth", "sha256": "34" * 32},
    **{
        "network": "LeViT-256",
        "winner": "int8",
        "path": "ckpt.onnx",
        "baseline": "plain, onnxruntime",
    },
    **{"runtimes": ["onnxruntime", "openvino"], "threads": 2, "batch_size": 4},
    "constraints": {
        **{"max_drop": 0.3, "max_latency_ms": None, "max_size_mb": 50.0, "time_limit_s": 480.0}
    },
    **{"pictures": "val", "seconds": 99.4, "complete": True, "remarks": ["A remark."]},
    **{"processor": "a processor", "versions": {"levit-deploy": "0.1.0"}},
    "candidates": CANDIDATES,
}
UNROUNDED = [c for c in CANDIDATES if not c["drop"]]


def page(**changes):
    return Page(optimization_page(DATA | changes))


def with_winner(name, candidates=UNROUNDED, **changes):
    won = {"state": "winner", "verification": PROOF, **changes}
    return [c | won if c["name"] == name else c for c in candidates]


def chart(html):
    """The picture, parsed as XML."""
    found = re.search(r"<svg.*?</svg>", html, re.S).group()
    return ElementTree.fromstring(found)


def test_the_verdict_comes_first_with_all_that_you_want_to_know():
    words = page().words
    assert words.startswith(
        "Winner : int8, onnxruntime 2.50 times as fast as plain, onnxruntime, the simplest form "
        "8.00 ms for a batch of 4 images 12.3 MB on disk 0.20 points of accuracy lost, at most "
        "0.71 with 95 % "
        "confidence Why int8 is winner. A remark. To make ckpt.onnx again: levit-deploy export "
        "ckpt.pth -o int8.onnx "
    )
    assert "ended early" not in words


def test_the_table_has_every_candidate_by_runtime_with_the_winner_first():
    words = page().words
    rows = [
        "onnxruntime 1 int8 winner 8.00 8.80 125.0 2.50 (2.25-2.75) 12.3 250 0.20 (0.71) 24 Why",
        "2 plain slower 20.00 22.00 50.0 1.00 (0.90-1.10) 12.3 250 0 24 Why plain is slower.",
        "3 wrong refused 4.00 4.40 250.0 5.00 (4.50-5.50) 12.3 250 0.90 (0.71) 24 Why wrong",
        "openvino 4 spatial slower 15.00 16.50 66.7 1.33 (1.20-1.47) 12.3 250 0 24 Why spatial",
        "5 untried slower 30.00 33.00 33.3 0.67 (0.60-0.73) 12.3 250 24 Why untried is slower.",
        "torch 6 broken failed Why broken is failed. command levit-deploy export ckpt.pth -o",
    ]
    places = [words.index(row) for row in rows]
    assert places == sorted(places)
    for one in CANDIDATES:
        assert f"{one['reason']} command {one['command']}" in words


def test_the_picture_says_who_is_on_the_front():
    html = optimization_page(DATA)
    front = "1 int8, onnxruntime, 8.00 ms, 0.20 points lost; 4 spatial, openvino, 15.00 ms"
    assert chart(html).get("aria-label") == (
        f"Latency against lost accuracy. On the Pareto front, the fastest first: {front}. "
        "Timed, not judged: 1 candidate."
    )
    assert f"On it, the fastest first: {front}." in Page(html).words
    titles = {title.text for title in chart(html).iter("title")}
    assert "3 wrong, onnxruntime: 4.00 ms, 0.90 points lost, refused" in titles
    assert len(titles) == 5  # all that were timed
    assert "beside it" not in html


def test_quartiles_of_the_time_are_those_of_the_speed():
    wide = [c | {"speed": {"median": 2.0, "low": 1.0, "high": 3.0}} for c in CANDIDATES[:3]]
    bars = chart(optimization_page(DATA | {"candidates": with_winner("spatial", wide)}))
    lines = [line for line in bars.iter("line") if line.get("class") == "quartiles"]
    lengths = [float(bar.get("width")) for bar in bars.iter("rect")]
    for length, line in zip(lengths, lines, strict=True):
        assert float(line.get("x1")) - 1 == pytest.approx(2 / 3 * length, abs=0.2)
        assert float(line.get("x2")) - 1 == pytest.approx(2 * length, abs=0.2)


def test_a_winner_beside_the_front_is_explained():
    level = candidate("level", "onnxruntime", "level", 0.0079, 0.2, accuracy=ACCURACY)
    words = page(candidates=[*CANDIDATES, level]).words
    front = "2 level, onnxruntime, 7.90 ms, 0.20 points lost; 5 spatial, openvino, 15.00 ms"
    assert f"On it, the fastest first: {front}. The winner is beside it" in words


def test_the_front_is_listed_by_speed_and_not_by_runtime():
    quick = candidate("quick", "openvino", "level", 0.0079, 0.25, accuracy=ACCURACY)
    words = page(candidates=[*CANDIDATES, quick]).words
    assert "the fastest first: 4 quick, openvino, 7.90 ms, 0.25 points lost; 1 int8" in words


def test_without_a_loss_the_picture_has_bars():
    html = optimization_page(DATA | {"candidates": with_winner("spatial"), "winner": "spatial"})
    said = "Latency of 3 candidates, the fastest first: 1 spatial, openvino, 15.00 ms."
    assert chart(html).get("aria-label") == said
    kinds = [bar.get("class") for bar in chart(html).iter("rect")]
    assert kinds == ["winner", "bar", "hollow"]
    assert "no accuracy lost: it computes the same as the checkpoint" in Page(html).words
    assert "1.33 times as fast as plain" in Page(html).words


def test_the_speed_says_no_more_than_the_race_does():
    candidates = with_winner("spatial", speed={"median": 1.01, "low": 0.93, "high": 1.21})
    level = [
        c | {"state": "level"} if c["label"] == "plain, onnxruntime" else c for c in candidates
    ]
    words = page(candidates=level).words
    assert "level with plain, onnxruntime, the simplest form 15.00 ms" in words
    assert "1.01 times" not in words
    assert "1.01 times" in page(candidates=candidates).words


def test_the_simplest_form_is_not_compared_with_itself():
    assert (
        "plain, onnxruntime, the simplest form" not in page(candidates=with_winner("plain")).words
    )


@pytest.mark.parametrize(
    ("complete", "title"), [(True, "nothing fits"), (False, "the run ended before one was proven")]
)
def test_a_page_without_a_winner_says_so(complete, title):
    candidates = [c | {"state": "excluded", "drop": None} for c in CANDIDATES[:2]] + CANDIDATES[-1:]
    nothing = {"winner": None, "path": None, "complete": complete, "candidates": candidates}
    read = page(**nothing)
    assert read.words.startswith(
        f"No winner: {title} Of 3 candidates: 2 excluded, 1 failed. A remark."
    )
    assert "The winner's proof" not in read.words
    assert ("header", {"class": "verdict refused"}) in read.tags


def test_without_a_timing_there_is_no_picture():
    read = page(candidates=CANDIDATES[-1:], winner=None, path=None)
    assert not any(tag == "svg" for tag, _ in read.tags)
    assert "6 broken" not in read.words
    assert "1 broken failed" in read.words


def test_a_run_that_ended_early_says_so():
    words = page(complete=False).words
    assert "The run ended early. More time may find a faster one." in words
    assert "99 s, ended early" in words


def test_the_winner_is_shown_with_its_proof():
    words = page().words
    for fact in (
        "verdict: proven, if the activation is hardswish",
        "calibrated by entropy on 300 pictures, for any processor",
        "left in float: blocks.1",
        "artifact ckpt.onnx artifact's SHA-256 " + "12" * 32,
        "Loss of accuracy by int8",
        "The float network, before rounding",
        "normal proven 8 1.2e-07 5.6e-07 3.4e-07 7.8e-07 8/8",
        "All 8 errors of logits",
    ):
        assert fact in words
    assert "Block by block" not in words  # nobody asked for the blocks


def test_the_conditions_are_told():
    words = page().words
    assert "processor a processor, 2 threads batch a batch of 4 images" in words
    constraints = "at most 50 MB, at most 0.3 points of accuracy lost, within 480 s"
    assert f"constraints {constraints} judged on val duration 99 s" in words
    assert "judged on no pictures" in page(pictures=None).words


def test_a_page_needs_nothing_else_and_every_name_is_escaped():
    named = [
        c | {"name": c["name"] + AWKWARD, "runtime": AWKWARD, "reason": AWKWARD, "command": AWKWARD}
        for c in CANDIDATES
    ]
    changes = {"candidates": named, "path": AWKWARD, "remarks": [AWKWARD], "baseline": AWKWARD}
    html = optimization_page(DATA | changes)
    read = Page(html)
    assert not {tag for tag, _ in read.tags} & {"script", "link", "img", "iframe", "b"}
    assert not any(name in ("src", "href") for _, attributes in read.tags for name in attributes)
    assert "url(" not in html
    assert "\x1b" not in html
    assert read.words.count(SHOWN) > 20


def test_a_page_is_read_aloud_and_scrolled_by_the_keyboard():
    html = optimization_page(DATA)
    tags = Page(html).tags
    assert [tag for tag, _ in tags].count("main") == [tag for tag, _ in tags].count("h1") == 1
    scopes = {attributes.get("scope") for tag, attributes in tags if tag == "th"}
    assert scopes == {"col", "row", "rowgroup"}
    for box in (attributes for _, attributes in tags if attributes.get("class") == "wide"):
        assert (box["tabindex"], box["role"]) == ("0", "region")
        assert box["aria-label"]
    images = [attributes for tag, attributes in tags if attributes.get("role") == "img"]
    assert len(images) == 2
    assert all(image["aria-label"] for image in images)
