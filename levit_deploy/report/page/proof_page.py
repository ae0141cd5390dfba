"""The evidence of a proof as one HTML page, without a network or a script."""

from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from xml.etree.ElementTree import Element

from levit_deploy.choices import DTYPES, ROUNDED
from levit_deploy.interface import COMPARED
from levit_deploy.pictures.class_folders import doubtful
from levit_deploy.report.data import Data
from levit_deploy.report.page.charts import bar, histogram
from levit_deploy.report.page.markup import element, to_html
from levit_deploy.report.proof import accuracy_rows, case_columns, case_rows, head_words, kind
from levit_deploy.text import counted
from levit_deploy.verification.compare import ERROR_EDGES
from levit_deploy.verification.parting import Parting

Cell = Element | str


def proof_page(data: Data) -> str:
    """The HTML document of a proof, the verdict first.

    ``data`` is the JSON of ``verify``, with ``beside_original``. Every name is escaped, and its
    control characters are spelled out.
    """
    proof = data["verification"]
    sections = [_verdict(data), _compared(data)]
    if proof["accuracy"] is not None:
        sections.append(_accuracy(proof["accuracy"], proof["precision"]))
    if proof["unrounded"] is not None:
        sections.append(_cases("The float network, before rounding", proof["unrounded"]))
        sections.append(_cases("The rounded network", proof))
    else:
        sections.append(_cases("Errors, and the errors allowed", proof))
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
    remarks = [element("p", remark) for remark in proof["remarks"]]
    if proof["passed"]:
        words = f"computes the same as {checkpoint}, within the errors allowed below."
        if proof["accuracy"] is not None:
            words = f"is {checkpoint}, rounded, and as accurate, but for the loss allowed below."
            if not proof["accuracy"]["shown"]:
                words += " The pictures are too few to be sure of that."
        return element(
            "header",
            element("h1", element("span", "Proven", class_="good"), f": {data['path']}"),
            element("p", words),
            *([element("p", _conditions(proof))] if proof["proven_if"] else []),
            *remarks,
            class_="verdict",
        )
    parting = [element("p", str(Parting(**proof["parting"])))] if proof["parting"] else []
    return element(
        "header",
        element("h1", f"Not proven: {data['path']}"),
        element("p", f"does not compute the same as {checkpoint}. Do not ship it."),
        element("ul", *(element("li", f"On {failure}.") for failure in proof["failures"])),
        *parting,
        *remarks,
        class_="verdict refused",
    )


def _conditions(proof: Data) -> str:
    """The facts that the verdict rests on, and that the checkpoint does not hold."""
    return f"Proven, if {' and '.join(proof['proven_if'])}: the checkpoint does not state it."


def _compared(data: Data) -> Element:
    """The files that were compared, and the versions that did it."""
    proof = data["verification"]
    takes = "bytes (uint8)" if proof["input"] == "uint8" else "normalised images (float32)"
    rows = [
        ("artifact", data["path"]),
        ("artifact's SHA-256", element("code", proof["sha256"])),
        ("format", f"{kind(proof)}, computes in {proof['precision']}"),
        ("input, output", f"{takes}, {proof['output']}"),
        ("head", head_words(proof) or "none"),
        ("checkpoint", proof["checkpoint"]["path"]),
        ("checkpoint's SHA-256", element("code", proof["checkpoint"]["sha256"])),
        *(("passed over", tensors) for tensors in data["passed_over"]),
        ("reading", proof["reading"]),
        ("reference", f"the checkpoint's network in float64, on inputs of seed {proof['seed']}"),
        ("versions", ", ".join(f"{name} {value}" for name, value in proof["versions"].items())),
    ]
    body = (
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in rows
    )
    table = element("table", element("tbody", *body), class_="facts")
    return _section("Compared files", table)


def _accuracy(accuracy: Data, precision: str) -> Element:
    doubt = "" if accuracy["float_top1"] is None else doubtful(accuracy["float_top1"])
    *figures, last = accuracy_rows(accuracy, precision)
    title = f"Loss of accuracy by {precision}"
    table = _table(
        title,
        ("figure", f"on {counted(accuracy['pictures'], 'picture')}", "verdict"),
        [*((*row, "") for row in figures), (*last, _result(accuracy))],
    )
    summary = f"{accuracy['summary'][0].upper()}{accuracy['summary'][1:]}."
    return _section(
        title, table, _soft(summary), *([_soft(f"In float32 {doubt}")] if doubt else [])
    )


def _cases(title: str, proof: Data) -> Element:
    """The errors on every kind of input, and on the images together."""
    rows: list[list[Cell]] = [
        [name, _result(result), *figures] for name, figures, result in case_rows(proof)
    ]
    own = f"the original in {DTYPES[proof['precision']]}"
    if proof["precision"] in ROUNDED:
        own = "the rounding itself"
    words = (
        f"Errors of {_of(proof)}. Allowed are twice the RMSE and four times the largest error of "
        f"{own}, or a few rounding steps if that is more. In a batch with other images, twice the "
        "largest error is allowed."
    )
    columns = ("inputs", "verdict", *case_columns(proof))
    return _section(title, _soft(words), _table(title, columns, rows))


def _of(proof: Data) -> str:
    """The values that the errors are of."""
    return COMPARED[proof["output"]]


def _spread(proof: Data) -> Element:
    counts = [sum(column) for column in zip(*(c["histogram"] for c in proof["cases"]), strict=True)]
    chart = histogram(
        counts, ERROR_EDGES.tolist(), 1, "error, in units of the largest allowed for its input"
    )
    words = (
        f"All {sum(counts)} errors of {_of(proof)}, for images run alone. Errors beyond the axis "
        "are in its first or last bar, NaN in the last."
    )
    return _section("Distribution of the errors", _soft(words), chart)


def _blocks(proof: Data) -> Element:
    title = "Block by block"
    if not proof["blocks"]:
        return _section(title, _soft("The values inside the artifact could not be read."))
    held = (
        proof["precision"] not in ROUNDED
    )  # in int8 the logits are held to a budget, not the blocks
    images = "normal noise" if proof["passed"] else "the image or batch with the largest error"
    words = (
        f"On {images}: the error of the value that comes nearest to each block's output in the "
        "original."
    )
    if held:
        words += (
            f" Allowed is twice the original's own RMSE there. The proof is of {_of(proof)}: over "
            "few images, a right artifact may exceed it at a block by chance."
        )
    drawn = ("allowed", "RMSE in units of it") if held else ("RMSE, drawn",)
    return _section(
        title, _soft(words), _table(title, ("block", "RMSE", *drawn), _block_rows(proof, held))
    )


def _block_rows(proof: Data, held: bool) -> Iterator[Sequence[Cell]]:
    """A row for each block, with a bar for its error, in units of its budget if it has one."""
    units = [block["allowed"] if held else 1.0 for block in proof["blocks"]]
    shares = [
        None if block["rmse"] is None else block["rmse"] / unit
        for block, unit in zip(proof["blocks"], units, strict=True)
    ]
    finite = [share for share in shares if share is not None and share < float("inf")]
    most = max([*finite, *([1.0] if held else [])], default=1.0)
    if float("inf") in shares:
        most *= 1.25  # so that infinity is beyond the line, and beyond all others
    for block, share in zip(proof["blocks"], shares, strict=True):
        rmse = "no value of its size" if share is None else f"{block['rmse']:.1e}"
        drawn: Cell = "" if share is None else bar(share, 1.0 if held else None, most)
        allowed = (f"{block['allowed']:.1e}",) if held else ()
        yield element("code", block["name"]), rmse, *allowed, drawn


def _sizes_and_speeds(beside: Data) -> Element:
    """The sizes of the files, and a short timing."""
    ratio, batch = beside["ratio"], beside["batch_size"]
    images = "one image" if batch == 1 else f"{batch} images"
    speed = f"{beside['verdict']}: {ratio['low']:.2f} to {ratio['high']:.2f} x"

    def figures(name: str) -> tuple[str, str]:
        return f"{beside[f'{name}_bytes'] / 1e6:.2f} MB", f"{beside[f'{name}_s'] * 1e3:.2f} ms"

    rows = [
        ("checkpoint, in PyTorch", *figures("original"), ""),
        ("artifact", *figures("artifact"), speed),
    ]
    words = (
        f"A short timing: medians of {beside['rounds']} rounds in turns, one thread, "
        f"{beside['processor']}. The artifact's time is taken in a process of its own. The "
        "speed is the ratio of the two times of a round, here its quartiles. It is called faster "
        "or slower only if three of four rounds agree. levit-deploy bench measures for longer."
    )
    title = "Sizes and speeds"
    columns = ("network", "size", f"time of {images}", "speed, round by round")
    return _section(title, _table(title, columns, rows), _soft(words))


def _section(title: str, *children: Element) -> Element:
    return element("section", element("h2", title), *children)


def _soft(words: str) -> Element:
    return element("p", words, class_="soft")


def _result(result: Data) -> Element:
    if result["failures"]:
        return element("td", "FAILED", class_="bad")
    if not result.get("shown", True):
        return element("td", "too few pictures")
    return element("td", "proven", class_="good")


def _table(label: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Element:
    """A table with a heading for each row on the left, and figures on the right.

    A table wider than the window can be scrolled, by the keyboard, too.
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
