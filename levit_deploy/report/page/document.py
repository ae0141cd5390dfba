"""The frame of a page, and the parts that pages share."""

from collections.abc import Iterable, Sequence
from importlib import resources
from xml.etree.ElementTree import Element

from levit_deploy.report.page.markup import element, to_html

Cell = Element | str


def document(title: str, *sections: Element) -> str:
    """The HTML document of these sections, with its style and nothing to load."""
    style = Element("style")
    style.text = resources.files(__package__).joinpath("style.css").read_text("utf-8")  # with lines
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        style,
    )
    body = element("body", element("main", *sections))
    return to_html(element("html", head, body, lang="en"))


def section(title: str, *children: Element) -> Element:
    """A part of a page, with a heading."""
    return element("section", element("h2", title), *children)


def soft(words: str) -> Element:
    """A paragraph that explains."""
    return element("p", words, class_="soft")


def fact_table(rows: Iterable[tuple[str, Cell]]) -> Element:
    """A table of names and values, as narrow as any window."""
    body = (
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in rows
    )
    return element("table", element("tbody", *body), class_="facts")


def figure_table(label: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Element:
    """A table with a heading for each row on the left, and figures on the right."""
    body = (
        element(
            "tr", element("th", first, scope="row"), *(_cell("td", cell, True) for cell in others)
        )
        for first, *others in rows
    )
    return wide_table(label, columns, element("tbody", *body))


def wide_table(label: str, columns: Sequence[str], *bodies: Element, words: int = 1) -> Element:
    """A table that can be scrolled if it is wider than the window, by the keyboard, too.

    The first ``words`` columns hold words, and the others figures.
    """
    head = element(
        "tr", *(_cell("th", column, i >= words, scope="col") for i, column in enumerate(columns))
    )
    table = element("table", element("thead", head), *bodies, class_="figures")
    return element("div", table, class_="wide", tabindex=0, role="region", aria_label=label)


def _cell(tag: str, cell: Cell, figure: bool, **attributes: str) -> Element:
    if isinstance(cell, Element) and cell.tag == "td":
        return cell
    number = figure and (tag == "th" or isinstance(cell, str))
    return element(tag, cell, **attributes, **({"class_": "number"} if number else {}))
