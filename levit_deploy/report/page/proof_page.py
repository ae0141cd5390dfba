"""The evidence of a proof as one page that needs nothing else: no network and no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from xml.etree.ElementTree import Element

from levit_deploy.choices import DTYPES
from levit_deploy.pictures.class_folders import doubtful
from levit_deploy.report.data import Data
from levit_deploy.report.page.charts import bar, histogram
from levit_deploy.report.page.markup import element, to_html
from levit_deploy.report.proof import same_top1, worst_batch
from levit_deploy.verification.compare import ERROR_EDGES
from levit_deploy.verification.parting import Parting

Cell = Element | str


def proof_page(data: Data) -> str:
    """An HTML document of what ``verify`` found, the verdict first.

    ``data`` is what ``verify --json`` writes, with ``beside_original``. Every name is escaped, and
    what is not printable in it spelled out.
    """
    proof = data["verification"]
    sections = [_verdict(data), _compared(data)]
    if proof["accuracy"] is not None:
        sections.append(_accuracy(proof["accuracy"]))
    if proof["unrounded"] is not None:
        sections.append(_cases("The float network, before it is rounded", proof["unrounded"]))
        sections.append(_cases("The rounded one", proof))
    else:
        sections.append(_cases("Errors, and what is allowed", proof))
    sections += [_spread(proof), _blocks(proof), _sizes_and_speeds(data["beside_original"])]
    style = Element("style")
    style.text = resources.files(__package__).joinpath("style.css").read_text("utf-8")  # with lines
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{_word(proof)}: {data['path']}"),
        style,
    )
    body = element("body", element("main", *sections))
    return to_html(element("html", head, body, lang="en"))


def _word(proof: Data) -> str:
    return "Proven" if proof["passed"] else "Not proven"


def _verdict(data: Data) -> Element:
    proof = data["verification"]
    checkpoint = proof["checkpoint"]["path"]
    if proof["passed"]:
        words = f"computes what {checkpoint} computes, within the error allowed below."
        if proof["accuracy"] is not None:
            words = f"is {checkpoint}, rounded, and answers as that does, but for the loss allowed."
        return element(
            "header",
            element("h1", element("span", "Proven", class_="good"), f": {data['path']}"),
            element("p", words),
            class_="verdict",
        )
    where = [element("p", str(Parting(**proof["parting"])))] if proof["parting"] else []
    return element(
        "header",
        element("h1", f"Not proven: {data['path']}"),
        element("p", f"does not compute what {checkpoint} computes. Do not ship it."),
        element("ul", *(element("li", f"On {failure}.") for failure in proof["failures"])),
        *where,
        class_="verdict refused",
    )


def _compared(data: Data) -> Element:
    """What was compared, and what computed it."""
    proof = data["verification"]
    takes = "bytes (uint8)" if proof["input"] == "uint8" else "normalised images (float32)"
    rows = [
        ("artifact", data["path"]),
        ("its SHA-256", element("code", proof["sha256"])),
        ("format", f"{proof['format']}, computes in {proof['precision']}"),
        ("takes, gives", f"{takes}, {proof['output']}"),
        ("head", proof["head"]),
        ("checkpoint", proof["checkpoint"]["path"]),
        ("its SHA-256", element("code", proof["checkpoint"]["sha256"])),
        ("reference", f"the checkpoint's own network in float64; inputs of seed {proof['seed']}"),
        ("versions", ", ".join(f"{name} {value}" for name, value in proof["versions"].items())),
    ]
    body = (
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in rows
    )
    table = element("table", element("tbody", *body), class_="facts")
    return _section("What was compared", table)


def _accuracy(accuracy: Data) -> Element:
    """What rounding to int8 costs on pictures."""
    rows = [("the same top-1", f"{accuracy['agreement']:.2f} %")]
    doubt = ""
    if accuracy["float_top1"] is not None:
        doubt = doubtful(accuracy["float_top1"])
        rows.append(("top-1 in float32", f"{accuracy['float_top1']:.2f} %"))
        rows.append(("top-1 in int8", f"{accuracy['int8_top1']:.2f} %"))
    lost = f"{max(accuracy['drop'], 0):.2f} points, {accuracy['allowed']:g} allowed"
    title = "What int8 costs"
    table = _table(
        title,
        ("figure", f"on {accuracy['pictures']} pictures", "verdict"),
        [*((name, value, "") for name, value in rows), ("lost", lost, _result(accuracy))],
    )
    return _section(title, table, *([_soft(f"In float32 {doubt}")] if doubt else []))


def _cases(title: str, proof: Data) -> Element:
    """The figures of every kind of input, and of the images together."""
    rows: list[Sequence[Cell]] = [
        (
            case["name"],
            _result(case),
            str(case["images"]),
            f"{case['rmse']:.1e}",
            f"{case['budget']['rmse']:.1e}",
            f"{case['max_error']:.1e}",
            f"{case['budget']['max_error']:.1e}",
            same_top1(case),
        )
        for case in proof["cases"]
    ]
    worst = worst_batch(proof["batches"])
    together = str(sum(batch["size"] for batch in proof["batches"]))
    figures = f"{worst['difference']:.1e}", f"{worst['allowed']:.1e}"
    rows.append(("together", _result(worst), together, "", "", *figures, ""))
    columns = ("inputs", "verdict", "images", "RMSE", "allowed", "max error", "allowed")
    own = f"the original itself has in {DTYPES[proof['precision']]}"
    if proof["precision"] == "int8":
        own = "the rounding itself makes"
    words = (
        f"Of {_of(proof)}. Allowed are twice the RMSE and four times the largest error that {own}, "
        "or a few of its rounding steps where that is more; beside other images, twice the latter."
    )
    return _section(title, _soft(words), _table(title, (*columns, "same top-1"), rows))


def _of(proof: Data) -> str:
    """What the errors are of."""
    return "logits" if proof["output"] == "logits" else "the probabilities' logarithms"


def _spread(proof: Data) -> Element:
    """How the errors of the logits are spread."""
    counts = [sum(column) for column in zip(*(c["histogram"] for c in proof["cases"]), strict=True)]
    chart = histogram(
        counts, ERROR_EDGES.tolist(), 1, "error, in units of the largest allowed for its input"
    )
    words = (
        f"All {sum(counts)} errors of {_of(proof)} of the images run alone, by their size. What is "
        "smaller or larger than the axis, or NaN, is in its first or last bar."
    )
    return _section("How the errors are spread", _soft(words), chart)


def _blocks(proof: Data) -> Element:
    """How far each block is off."""
    title = "Block by block"
    if not proof["blocks"]:
        return _section(title, _soft("What the artifact computes inside could not be had."))
    held = proof["precision"] != "int8"  # the logits are, but not the blocks
    found = [block["rmse"] for block in proof["blocks"]]
    shares = [
        None if rmse is None else rmse / block["allowed"] if held else rmse
        for rmse, block in zip(found, proof["blocks"], strict=True)
    ]
    finite = [share for share in shares if share is not None and share < float("inf")]
    most = max([*finite, *([1.0] if held else [])], default=1.0)
    if float("inf") in shares:
        most *= 1.25  # so that infinity is beyond the line, and beyond all others
    rows: list[Sequence[Cell]] = []
    for block, share in zip(proof["blocks"], shares, strict=True):
        rmse = "nothing of its size" if share is None else f"{block['rmse']:.1e}"
        drawn: Cell = "" if share is None else bar(share, 1.0 if held else None, most)
        allowed = (f"{block['allowed']:.1e}",) if held else ()
        rows.append((element("code", block["name"]), rmse, *allowed, drawn))
    where = "On the image or batch that is most wrong" if not proof["passed"] else "On normal noise"
    words = f"{where}, how far the value nearest to each block's output is from the original's."
    if held:
        words += (
            f" Allowed is twice the original's own RMSE there. The proof is of {_of(proof)}: over "
            "few images, a right artifact may be beyond the line at a block by chance."
        )
    columns = (
        "block",
        "RMSE",
        *(("allowed", "RMSE of what is allowed") if held else ("RMSE, drawn",)),
    )
    return _section(title, _soft(words), _table(title, columns, rows))


def _sizes_and_speeds(beside: Data) -> Element:
    """A short timing, and the sizes of the files."""
    ratio, batch = beside["ratio"], beside["batch_size"]
    images = "one image" if batch == 1 else f"{batch} images"
    speed = f"{beside['verdict']}: {ratio['low']:.2f} to {ratio['high']:.2f} x"
    rows = [
        (
            name,
            f"{beside[f'{key}_bytes'] / 1e6:.2f} MB",
            f"{beside[f'{key}_s'] * 1e3:.2f} ms",
            compared,
        )
        for name, key, compared in (
            ("checkpoint, in PyTorch", "original", ""),
            ("artifact", "artifact", speed),
        )
    ]
    words = (
        f"A short timing: medians of {beside['rounds']} rounds in turns, one thread, "
        f"{beside['processor']}. The artifact's time includes the way to its process and back. Its "
        "speed is the ratio of the two times of each round, here the quartiles: faster or slower "
        "only where three rounds of four say so. levit-deploy bench takes longer, to say more."
    )
    title = "Sizes and speeds"
    columns = ("network", "size", f"time of {images}", "speed, round by round")
    return _section(title, _table(title, columns, rows), _soft(words))


def _section(title: str, *children: Element) -> Element:
    return element("section", element("h2", title), *children)


def _soft(words: str) -> Element:
    return element("p", words, class_="soft")


def _result(result: Data) -> Element:
    """The verdict's cell."""
    if result["failures"]:
        return element("td", "FAILED", class_="bad")
    return element("td", "proven", class_="good")


def _table(label: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Element:
    """A table with a heading for each row to the left, and figures to the right.

    What is too wide for the window can be scrolled, by the keyboard, too.
    """
    head = element("tr", *(_cell("th", column, i, scope="col") for i, column in enumerate(columns)))
    body = (
        element("tr", element("th", first, scope="row"), *(_cell("td", cell, 1) for cell in others))
        for first, *others in rows
    )
    table = element("table", element("thead", head), element("tbody", *body), class_="figures")
    return element("div", table, class_="wide", tabindex=0, role="region", aria_label=label)


def _cell(tag: str, cell: Cell, place: int, **attributes: str) -> Element:
    if isinstance(cell, Element) and cell.tag == "td":
        return cell
    number = place > 0 and (tag == "th" or isinstance(cell, str))
    return element(tag, cell, **attributes, **({"class_": "number"} if number else {}))
