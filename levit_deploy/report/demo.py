"""The closing table of the demo."""

from rich.console import Console

from levit_deploy.report.console import new_table
from levit_deploy.report.data import Data


def print_comparison(data: Data, console: Console) -> None:
    """Print the closing table; the last column is relative to the original."""
    table = new_table("network", "top-1", "max error", "allowed", "size", "one image", "speed")
    rows = data["comparison"]
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['top1']:.2f} %",
            "" if row["max_error"] is None else f"{row['max_error']:.1e}",
            "" if row["allowed"] is None else f"{row['allowed']:.1e}",
            f"{row['size_bytes'] / 1e6:.2f} MB",
            f"{row['milliseconds']:.2f} ms",
            f"{rows[0]['milliseconds'] / row['milliseconds']:.1f} x",
        )
    console.print(table)
