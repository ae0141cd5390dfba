"""Draw the forms that one runtime runs, out of a report of ``levit-deploy bench``.

    pip install -c constraints.txt '.[bench]'
    levit-deploy bench LeViT-256 --batch-size 1 --rounds 30 --json speed.json
    python examples/plot_speed.py speed.json docs/speed.png

``bench --plot`` draws every runtime; this script draws the one that you deploy with. The README's
picture is made by these lines.
"""

import argparse
import json
from pathlib import Path

from levit_deploy.bench.plot import plot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="what `levit-deploy bench --json` wrote")
    parser.add_argument("picture", help="the PNG to write")
    parser.add_argument("--runtime", default="onnxruntime", help="default: onnxruntime")
    args = parser.parse_args()

    data = json.loads(args.report.read_text())
    runtimes = {row["runtime"] for row in data["rows"]}
    if args.runtime not in runtimes:
        raise SystemExit(f"{args.report} has no {args.runtime}. Choose from {sorted(runtimes)}.")
    data["rows"] = [row for row in data["rows"] if row["runtime"] == args.runtime]
    plot(data, args.picture)


if __name__ == "__main__":
    main()
