"""HTML and SVG elements, with every text and attribute escaped."""

from xml.etree.ElementTree import Element, tostring

from levit_deploy.text import printable


def element(tag: str, *children: Element | str, **attributes: str | float) -> Element:
    """An element with children in order, elements and text.

    An attribute that is a Python keyword ends in an underscore, as in ``class_``. Other
    underscores stand for hyphens.
    """
    made = Element(tag)
    for name, value in attributes.items():
        made.set(name.rstrip("_").replace("_", "-"), printable(str(value)))
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + printable(child)
        else:
            made.text = (made.text or "") + printable(child)
    return made


def to_html(root: Element) -> str:
    """The document of the root element."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
