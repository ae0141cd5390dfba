"""The evidence of a proof as one HTML page, without a network or a script."""

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from levit_deploy.choices import DTYPES, ROUNDED
from levit_deploy.interface import COMPARED
from levit_deploy.pictures.class_folders import doubtful
from levit_deploy.report.data import Data
from levit_deploy.report.page.charts import bar, histogram
from levit_deploy.report.page.document import (
    Cell,
    document,
    fact_table,
    figure_table,
    section,
    soft,
)
from levit_deploy.report.page.markup import element
from levit_deploy.report.proof import (
    accuracy_rows,
    blocks_in_words,
    case_columns,
    case_rows,
    graph_words,
    head_words,
    kind,
)
from levit_deploy.text import counted
from levit_deploy.verification.compare import ERROR_EDGES
from levit_deploy.verification.parting import Parting


def proof_page(data: Data) -> str:
    """The HTML document of a proof, the verdict first.

    ``data`` is the JSON of ``verify``, with ``beside_original``. Every name is escaped, and its
    control characters are spelled out.
    """
    proof = data["verification"]
    sections = (
        _verdict(data),
        compared(data["path"], proof, data["passed_over"]),
        *errors(proof),
        blocks(proof),
        _sizes_and_speeds(data["beside_original"]),
    )
    return document(f"{_word(proof)}: {data['path']}", *sections)


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
    changed = proof["graph"] is not None and proof["graph"]["same"] is False
    if changed and len(proof["failures"]) == 1:
        words = f"is not the file that is exported from {checkpoint}. Do not ship it."
    else:
        words = f"does not compute the same as {checkpoint}. Do not ship it."
    parting = [element("p", str(Parting(**proof["parting"])))] if proof["parting"] else []
    return element(
        "header",
        element("h1", f"Not proven: {data['path']}"),
        element("p", words),
        element("ul", *(element("li", f"On {failure}.") for failure in proof["failures"])),
        *parting,
        *remarks,
        class_="verdict refused",
    )


def _conditions(proof: Data) -> str:
    """The facts that the verdict rests on, and that the checkpoint does not hold."""
    return f"Proven, if {' and '.join(proof['proven_if'])}: the checkpoint does not state it."


def compared(path: str, proof: Data, passed_over: Sequence[str]) -> Element:
    """The files that were compared, and the versions that did it."""
    takes = "bytes (uint8)" if proof["input"] == "uint8" else "normalised images (float32)"
    rows = [
        ("artifact", path),
        ("artifact's SHA-256", element("code", proof["sha256"])),
        ("format", f"{kind(proof)}, computes in {proof['precision']}"),
        ("input, output", f"{takes}, {proof['output']}"),
        ("head", head_words(proof) or "none"),
        ("checkpoint", proof["checkpoint"]["path"]),
        ("checkpoint's SHA-256", element("code", proof["checkpoint"]["sha256"])),
        *(("passed over", tensors) for tensors in passed_over),
        ("reading", proof["reading"]),
        *([] if proof["graph"] is None else [("graph", graph_words(proof))]),
        ("reference", f"the checkpoint's network in float64, on inputs of seed {proof['seed']}"),
        ("versions", ", ".join(f"{name} {value}" for name, value in proof["versions"].items())),
    ]
    return section("Compared files", fact_table(rows))


def errors(proof: Data) -> Iterator[Element]:
    """The loss of accuracy, every error beside the error allowed, and the errors' distribution."""
    if proof["accuracy"] is not None:
        yield _accuracy(proof["accuracy"], proof["precision"])
    if proof["unrounded"] is not None:
        yield _cases("The float network, before rounding", proof["unrounded"])
        yield _cases("The rounded network", proof)
    else:
        yield _cases("Errors, and the errors allowed", proof)
    yield _spread(proof)


def _accuracy(accuracy: Data, precision: str) -> Element:
    doubt = "" if accuracy["float_top1"] is None else doubtful(accuracy["float_top1"])
    *figures, last = accuracy_rows(accuracy, precision)
    title = f"Loss of accuracy by {precision}"
    table = figure_table(
        title,
        ("figure", f"on {counted(accuracy['pictures'], 'picture')}", "verdict"),
        [*((*row, "") for row in figures), (*last, _result(accuracy))],
    )
    summary = f"{accuracy['summary'][0].upper()}{accuracy['summary'][1:]}."
    return section(title, table, soft(summary), *([soft(f"In float32 {doubt}")] if doubt else []))


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
    return section(title, soft(words), figure_table(title, columns, rows))


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
    return section("Distribution of the errors", soft(words), chart)


def blocks(proof: Data) -> Element:
    """The error at the output of every block."""
    title = "Block by block"
    if not proof["blocks"]:
        return section(title, soft("The values inside the artifact could not be read."))
    held = (
        proof["precision"] not in ROUNDED
    )  # in int8 the logits are held to a budget, not the blocks
    words = "The error of the value that comes nearest to each block's output in the original. "
    if held:
        words += (
            "Each block of the original was given the artifact's own value of the block before it, "
            "so only its own error counts. Allowed is four times the original's own RMSE there: "
            f"{blocks_in_words(proof['blocks'])}."
        )
    else:
        words += "Rounded numbers differ at every block, so these are held to no budget."
    drawn = ("allowed", "RMSE in units of it") if held else ("RMSE, drawn",)
    return section(
        title, soft(words), figure_table(title, ("block", "RMSE", *drawn), _block_rows(proof, held))
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
    return section(title, figure_table(title, columns, rows), soft(words))


def _result(result: Data) -> Element:
    if result["failures"]:
        return element("td", "FAILED", class_="bad")
    if not result.get("shown", True):
        return element("td", "too few pictures")
    return element("td", "proven", class_="good")
