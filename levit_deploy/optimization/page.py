"""The outcome of an optimization as one HTML page, without a network or a script."""

from collections.abc import Iterable, Iterator, Sequence
from xml.etree.ElementTree import Element

from levit_deploy.optimization.front import on_front
from levit_deploy.report.benchmark import milliseconds
from levit_deploy.report.data import Data
from levit_deploy.report.page.document import document, fact_table, section, soft, wide_table
from levit_deploy.report.page.latency_charts import Mark, latencies, scatter
from levit_deploy.report.page.markup import element
from levit_deploy.report.page.proof_page import blocks, compared, errors
from levit_deploy.report.published import quantization_lines
from levit_deploy.text import counted, rounded_up
from levit_deploy.verification.confidence import CONFIDENCE

_COLUMNS = (
    *("", "candidate", "verdict", "ms", "p90 ms", "images/s", "speed, quartiles", "MB", "load ms"),
    *("lost", "rounds"),
)
_STATES = ("winner", "level", "slower", "excluded", "refused", "failed", "left out")
_OUT = ("excluded", "refused", "failed", "left out")


def optimization_page(data: Data) -> str:
    """The HTML document of an optimization, the winner first.

    ``data`` is what ``optimize.json`` holds. Every name is escaped, and its control characters are
    spelled out.
    """
    ranked = _ranked(data["candidates"])
    winner = next((c for c in ranked if c["state"] == "winner"), None)
    sections = [
        _no_winner(data) if winner is None else _winner(data, winner),
        *_picture(data, ranked),
        _candidates(ranked),
        _conditions(data),
        *([] if winner is None else _proof(data, winner)),
    ]
    title = "No winner" if winner is None else f"Winner: {winner['label']}"
    return document(f"{title}: {data['checkpoint']['path']}", *sections)


def _ranked(candidates: Sequence[Data]) -> list[Data]:
    """In the order of the table: the runtime of the best first, and its best first."""

    def rank(candidate: Data) -> tuple[int, float]:
        seconds = candidate["median_s"]
        return _STATES.index(candidate["state"]), float("inf") if seconds is None else seconds

    ranked = sorted(candidates, key=rank)
    runtimes = list(dict.fromkeys(c["runtime"] for c in ranked))
    return sorted(ranked, key=lambda c: runtimes.index(c["runtime"]))


def _winner(data: Data, winner: Data) -> Element:
    key = [
        _key_figure(*words)
        for words in (_speed(data, winner), _latency(data, winner), _size(winner), _loss(winner))
        if words is not None
    ]
    early = "The run ended early. More time may find a faster one."
    remarks = [winner["reason"], *([] if data["complete"] else [early]), *data["remarks"]]
    name = element("span", "Winner", class_="good")
    return element(
        "header",
        element("h1", name, f": {winner['label']}"),
        element("ul", *key, class_="key"),
        *(element("p", remark) for remark in remarks),
        element("p", f"To make {data['path'] or 'it'} again:"),
        element("pre", _command(winner)),
        class_="verdict",
    )


def _key_figure(figure: str, words: str) -> Element:
    return element("li", element("strong", figure), f" {words}")


def _speed(data: Data, winner: Data) -> tuple[str, str] | None:
    speed = winner["speed"]
    if speed is None or winner["label"] == data["baseline"]:
        return None
    level = [c["label"] for c in data["candidates"] if c["state"] == "level"]
    if data["baseline"] in level:
        return "level", f"with {data['baseline']}, the simplest form"
    return f"{speed['median']:.2f} times", f"as fast as {data['baseline']}, the simplest form"


def _latency(data: Data, winner: Data) -> tuple[str, str] | None:
    if winner["median_s"] is None:
        return None
    return f"{milliseconds(winner['median_s'])} ms", f"for {_batch(data)}"


def _batch(data: Data) -> str:
    return "one image" if data["batch_size"] == 1 else f"a batch of {data['batch_size']} images"


def _size(winner: Data) -> tuple[str, str] | None:
    return None if winner["size_bytes"] is None else (_megabytes(winner), "on disk")


def _megabytes(candidate: Data) -> str:
    return f"{candidate['size_bytes'] / 1e6:.1f} MB"


def _loss(winner: Data) -> tuple[str, str] | None:
    if winner["drop"] is None:
        return None
    if winner["accuracy"] is None:
        return "no accuracy", "lost: it computes the same as the checkpoint"
    limit = rounded_up(winner["accuracy"]["largest_drop"])
    return (
        f"{winner['drop']:.2f} points",
        f"of accuracy lost, at most {limit} with {100 * CONFIDENCE:g} % confidence",
    )


def _command(candidate: Data) -> Element:
    """The command, which may be broken at spaces, but not within an option."""
    words = [element("span", word) for word in candidate["command"].split(" ")]
    return element("code", *(part for word in words for part in (word, " ")))


def _no_winner(data: Data) -> Element:
    reason = "nothing fits" if data["complete"] else "the run ended before one was proven"
    states = [c["state"] for c in data["candidates"]]
    fates = [f"{states.count(state)} {state}" for state in _STATES if state in states]
    words = f"Of {counted(len(states), 'candidate')}: {', '.join(fates)}."
    return element(
        "header",
        element("h1", f"No winner: {reason}"),
        *(element("p", line) for line in (words, *data["remarks"])),
        class_="verdict refused",
    )


def _picture(data: Data, ranked: Sequence[Data]) -> list[Element]:
    """Speed against accuracy, or speed alone if nothing loses accuracy."""
    marks = sorted(_marks(ranked), key=lambda mark: mark.ms)
    if not marks:
        return []
    if any(mark.lost for mark in marks):
        return [_speed_and_accuracy(data, marks)]
    said = (
        f"Latency of {counted(len(marks), 'candidate')}, the fastest first: {marks[0].label}, "
        f"{marks[0].figures}."
    )
    words = (
        f"The median of ms for {_batch(data)}. Thin lines are the quartiles of the speed, round by "
        "round. Open bars were timed only. Filled bars are proven, and lose no accuracy."
    )
    return [section("Speed", soft(words), latencies(marks, said))]


def _speed_and_accuracy(data: Data, marks: Sequence[Mark]) -> Element:
    front = [mark for mark in marks if mark.on_front]
    listed = "; ".join(f"{mark.label}, {mark.figures}" for mark in front) or "none"
    unjudged = counted(sum(mark.lost is None for mark in marks), "candidate")
    said = (
        f"Latency against lost accuracy. On the Pareto front, the fastest first: {listed}. "
        f"Timed, not judged: {unjudged}."
    )
    words = (
        "The numbers are those of the table. The diamond is the winner. Filled circles are proven, "
        "and judged on pictures if they round. Open circles were timed only. Crosses are out of "
        "the race. Thin lines are the quartiles of the speed, round by round."
    )
    meaning = (
        "The steps are the Pareto front: whatever is as fast as one of its marks loses as much, "
        f"or more. On it, the fastest first: {listed}."
    )
    if any(mark.winner and not mark.on_front for mark in marks):
        meaning += " The winner is beside it, by less than the rounds can tell."
    axis = f"ms for {_batch(data)}, logarithmic (left is better)"
    limits = data["constraints"]["max_latency_ms"], data["constraints"]["max_drop"]
    chart = scatter(marks, axis, *limits, said)
    return section("Speed and accuracy", chart, soft(words), soft(meaning))


def _marks(ranked: Sequence[Data]) -> list[Mark]:
    """The candidates that were timed."""
    front = _front(ranked)
    return [
        Mark(
            number=number,
            name=candidate["name"],
            runtime=candidate["runtime"],
            figures=_figures(candidate),
            ms=1000 * candidate["median_s"],
            low=1000 * candidate["median_s"] * low,
            high=1000 * candidate["median_s"] * high,
            lost=candidate["drop"],
            winner=candidate["state"] == "winner",
            out=candidate["state"] in _OUT,
            on_front=number in front,
        )
        for number, candidate in enumerate(ranked, 1)
        if candidate["median_s"] is not None
        for low, high in [_quartiles(candidate["speed"])]
    ]


def _front(ranked: Sequence[Data]) -> set[int]:
    """The numbers of the candidates on the front, of those that may be published."""
    numbers = [
        number
        for number, c in enumerate(ranked, 1)
        if c["state"] not in _OUT and None not in (c["median_s"], c["drop"])
    ]
    points = [(ranked[n - 1]["median_s"], ranked[n - 1]["drop"]) for n in numbers]
    return {n for n, is_on in zip(numbers, on_front(points), strict=True) if is_on}


def _quartiles(speed: Data | None) -> tuple[float, float]:
    """Those of the time, as shares of its median: from the speed, as that is paired by round."""
    if speed is None:
        return 1, 1
    return speed["median"] / speed["high"], speed["median"] / speed["low"]


def _figures(candidate: Data) -> str:
    words = [f"{milliseconds(candidate['median_s'])} ms"]
    if candidate["accuracy"] is not None and candidate["drop"] is not None:
        words.append(f"{candidate['drop']:.2f} points lost")
    if candidate["state"] in _OUT:
        words.append(candidate["state"])
    return ", ".join(words)


def _candidates(ranked: Sequence[Data]) -> Element:
    """The table, and the meaning of its columns."""
    words = (
        "Times are medians in turns, and p90 is the time that nine rounds of ten did not exceed. "
        "The speed is the ratio to the simplest form in the same round, with its quartiles. Points "
        f"of accuracy are lost: at most those in brackets, with {100 * CONFIDENCE:g} % confidence."
    )
    numbered = list(enumerate(ranked, 1))
    bodies = (
        element(
            "tbody",
            element(
                "tr",
                element("th", runtime, colspan=len(_COLUMNS), scope="rowgroup"),
                class_="group",
            ),
            *(row for n, c in numbered if c["runtime"] == runtime for row in _rows(n, c)),
        )
        for runtime in dict.fromkeys(c["runtime"] for c in ranked)
    )
    table = wide_table("All candidates", _COLUMNS, *bodies, words=3)
    return section("All candidates", element("div", table, class_="candidates"), soft(words))


def _rows(number: int, candidate: Data) -> Iterator[Element]:
    """A row of figures, and one for the reason and the command."""
    state = candidate["state"]
    kind = {"winner": "good", "refused": "bad", "failed": "bad"}.get(state, "")
    yield element(
        "tr",
        element("td", str(number), class_="number"),
        element("th", candidate["name"], scope="row"),
        element("td", state, class_=kind),
        *(element("td", figure, class_="number") for figure in _row(candidate)),
        class_="one winner" if state == "winner" else "one",
    )
    told: list[Element | str] = [candidate["reason"]]
    if candidate["command"]:
        told.append(element("details", element("summary", "command"), _command(candidate)))
    yield element(
        "tr",
        element("td"),
        element("td", element("div", *told), colspan=len(_COLUMNS) - 1),
        class_="told",
    )


def _row(candidate: Data) -> Iterable[str]:
    """The figures, with nothing for those that were not measured."""
    speed, rate, load = candidate["speed"], candidate["images_per_s"], candidate["load_s"]
    yield from (
        "" if candidate[time] is None else milliseconds(candidate[time])
        for time in ("median_s", "p90_s")
    )
    yield "" if rate is None else f"{rate:.1f}"
    yield "" if speed is None else f"{speed['median']:.2f} ({speed['low']:.2f}-{speed['high']:.2f})"
    yield "" if candidate["size_bytes"] is None else f"{candidate['size_bytes'] / 1e6:.1f}"
    yield "" if load is None else f"{1000 * load:.0f}"
    yield _lost(candidate)
    yield str(candidate["rounds"] or "")


def _lost(candidate: Data) -> str:
    if candidate["drop"] is None:
        return ""
    if candidate["accuracy"] is None:
        return "0"
    return f"{candidate['drop']:.2f} ({rounded_up(candidate['accuracy']['largest_drop'])})"


def _conditions(data: Data) -> Element:
    threads = "one thread" if data["threads"] == 1 else f"{data['threads']} threads"
    rows = [
        ("checkpoint", data["checkpoint"]["path"]),
        ("checkpoint's SHA-256", element("code", data["checkpoint"]["sha256"])),
        ("network", data["network"]),
        ("processor", f"{data['processor']}, {threads}"),
        ("batch", _batch(data)),
        ("runtimes", ", ".join(data["runtimes"])),
        ("constraints", ", ".join(_constraints(data["constraints"])) or "none"),
        ("judged on", data["pictures"] or "no pictures: nothing that rounds could win"),
        ("duration", f"{data['seconds']:.0f} s{'' if data['complete'] else ', ended early'}"),
        ("versions", ", ".join(f"{name} {value}" for name, value in data["versions"].items())),
    ]
    return section("Conditions", fact_table(rows))


def _constraints(constraints: Data) -> Iterator[str]:
    for name, words in (
        ("max_latency_ms", "at most {:g} ms"),
        ("max_size_mb", "at most {:g} MB"),
        ("max_drop", "at most {:g} points of accuracy lost"),
        ("time_limit_s", "within {:g} s"),
    ):
        if constraints[name] is not None:
            yield words.format(constraints[name])


def _proof(data: Data, winner: Data) -> Iterator[Element]:
    """The evidence that the winner computes what the checkpoint does."""
    proof = winner["verification"]
    if proof is None:
        return
    how = [] if winner["quantization"] is None else quantization_lines(winner["quantization"])
    lines = (f"verdict: {proof['verdict']}", *proof["remarks"], *how)
    yield section("The winner's proof", element("ul", *(element("li", line) for line in lines)))
    yield compared(data["path"] or winner["file"] or winner["label"], proof, ())
    yield from errors(proof)
    if proof["blocks"]:
        yield blocks(proof)
