"""The step at work, on standard error."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from levit_deploy.text import printable

log = logging.getLogger(__name__)


@contextmanager
def status(doing: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show the step at work until the block ends, if standard error is a terminal.

    Yields a function that shows, and logs, the next step.
    """
    from rich.console import Console  # not needed for --help, or the shell's completion
    from rich.text import Text

    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    if quiet or not console.is_terminal:
        yield log.info
        return
    with console.status(Text(printable(doing))) as shown:

        def tell(next_step: str) -> None:
            log.info(next_step)
            shown.update(Text(printable(next_step)))

        yield tell
