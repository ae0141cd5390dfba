"""Predictions as a folder of Parquet files, a row for each picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from levit_deploy._version import __version__
from levit_deploy.errors import BackendError
from levit_deploy.prediction.predict import Prediction
from levit_deploy.provenance import TOOL, is_ours
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.text import as_utf8

ANSWER = pa.struct([("index", pa.int32()), ("label", pa.string()), ("probability", pa.float64())])
COLUMNS = [("path", pa.string()), ("problem", pa.string()), ("answers", pa.list_(ANSWER))]


def facts(artifact: Artifact) -> dict[str, str]:
    """The metadata of a file: the artifact that gave what it holds."""
    return {"tool": f"{TOOL} {__version__}", "format": artifact.format, "sha256": artifact.sha256}


def schema(artifact: Artifact) -> pa.Schema:
    """The columns, with the artifact whose answers they hold."""
    return pa.schema(COLUMNS, metadata=facts(artifact))


def to_table(predictions: Iterable[Prediction], schema: pa.Schema) -> pa.Table:
    """A row for each prediction; a skipped picture has a problem and no answers."""
    rows = [
        {
            "path": as_utf8(prediction.path),
            "problem": prediction.problem,
            "answers": [asdict(answer) for answer in prediction.answers],
        }
        for prediction in predictions
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def read_problems(folder: Path, paths: Iterable[Path]) -> list[str]:
    """The problems of the skipped pictures, in the order of their text.

    Raises BackendError unless each of ``paths`` has a row, and only one.
    """
    missing, problems = Counter(map(as_utf8, paths)), []
    files = pa.dataset.dataset(folder, format="parquet")
    for batch in files.to_batches(columns=["path", "problem"]):
        missing.subtract(batch["path"].to_pylist())
        problems += [problem for problem in batch["problem"].to_pylist() if problem]
    if wrong := sum(map(abs, missing.values())):
        raise BackendError(
            f"{wrong} pictures are missing from the workers' files, or are there twice. "
            "Expected a row for each picture. Check that all machines of the cluster share the "
            "folder."
        )
    return sorted(problems)


def is_parquet_of_ours(folder: Path) -> bool:
    """Whether a folder holds Parquet files that this tool wrote, and nothing else."""
    try:
        return all(
            is_ours(
                {
                    key.decode(): value.decode()
                    for key, value in (pa.parquet.read_schema(path).metadata or {}).items()
                }
            )
            for path in folder.iterdir()
        )
    except (OSError, ValueError):  # not Parquet, or damaged
        return False
