"""A progress bar for pictures, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from levit_deploy.text import counted, printable


class _Speed(ProgressColumn):
    """Pictures a second, over the last few."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


@contextmanager
def progress_bar(
    count: Callable[[], int | None] = lambda: None, *, quiet: bool, shown: bool = True
) -> Iterator[Callable[..., None]]:
    """Yield a function to call after each picture, with its problem or '', and their number.

    Problems are printed at once and counted at the end, unless ``quiet``. The bar goes up to
    ``count()``, until a call gives the number. It is ``shown`` only if standard error is a
    terminal.
    """
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    bar = Progress(
        TextColumn("pictures"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        console=console,
        disable=quiet or not shown or not console.is_terminal,
        redirect_stdout=False,  # the answers go there
    )
    task = bar.add_task("", total=None if bar.disable else count())
    pictures = skipped = 0

    def done(problem: str, total: int | None = None) -> None:
        nonlocal pictures, skipped
        pictures, skipped = pictures + 1, skipped + bool(problem)
        bar.update(task, advance=1, total=total)
        if problem and not quiet:
            console.print(f"skipped: {printable(problem)}", soft_wrap=True)

    with bar:
        yield done
    if skipped and not quiet:
        console.print(f"skipped {skipped} of {counted(pictures, 'picture')}", soft_wrap=True)
