"""Read a page as a browser does: by an HTML parser that is not ours."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and the text in their order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._within = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._within.append(tag)

    def handle_endtag(self, tag):
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self._within and "title" not in self._within:
            self.text += f"{data} "

    @property
    def words(self):
        """The text with single spaces."""
        return " ".join(self.text.split())
