"""From pictures to feature vectors, for any number of pictures."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from levit_deploy.arrays import FloatArray
from levit_deploy.errors import UsageError
from levit_deploy.extras import require_extra
from levit_deploy.prediction.predict import every_picture, scored
from levit_deploy.prediction.processor import read_embedder
from levit_deploy.publish.file import staged
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.load import open_isolated
from levit_deploy.text import as_utf8

OPTION = "--embeddings"
ROWS = 1024  # written at once

Write = Callable[[Path, FloatArray], None]


@dataclass(frozen=True)
class Embedding:
    """The features of a picture, float32 (width,).

    If the picture could not be used, ``vector`` is None, and ``problem`` is the reason.
    """

    path: Path
    vector: FloatArray | None
    problem: str = ""


def embed(
    artifact: str | Path,
    pictures: str | Path | Iterable[str | Path],
    *,
    batch_size: int | None = None,
    threads: int | None = None,
) -> Iterator[Embedding]:
    """Give the features of pictures in order, prepared by the artifact's metadata.

        for embedding in levit_deploy.embed("features.onnx", "photos/"):
            print(embedding.path, embedding.vector)

    Args:
        artifact: The path of an artifact that gives features.
        pictures: Files, and folders for all pictures below them.
        batch_size: As for ``predict``.
        threads: As for ``predict``.

    Raises:
        UsageError: With the first vector: the artifact gives something else.
        LevitDeployError: As for ``predict``.
    """
    named = [pictures] if isinstance(pictures, str | Path) else pictures
    paths = every_picture([Path(path) for path in named])

    def vectors() -> Iterator[Embedding]:
        with open_isolated(Path(artifact), threads) as opened:
            yield from embeddings(opened, paths, batch_size)

    return vectors()


def embeddings(
    artifact: Artifact, paths: Iterable[Path], batch_size: int | None = None
) -> Generator[Embedding, None, None]:
    """The same for an open artifact, and for files only."""
    processor = read_embedder(artifact)
    with closing(scored(artifact, processor, paths, batch_size)) as pictures:
        for picture in pictures:
            yield Embedding(picture.path, picture.scores, picture.problem)


def paths_file(file: Path) -> Path:
    """The file beside ``file``, a .npy, that has the path of each row."""
    return file.with_suffix(".paths.json")


def require_known_suffix(file: Path) -> None:
    """Raise UsageError if vectors cannot be written to a file of this name, or not here."""
    if file.suffix == ".parquet":
        require_extra("parquet", ("pyarrow",), f"{OPTION} {file.name}")
    elif file.suffix != ".npy":
        raise UsageError(
            f"{OPTION} {file} is neither .npy nor .parquet. Give the file one of these endings."
        )


@contextmanager
def vectors_to(file: Path, artifact: Artifact, *, force: bool) -> Iterator[Write]:
    """Yield a function that writes the path and vector of a picture, one after the other.

    A .parquet file has the columns ``path`` and ``vector``. A .npy file has the matrix, and
    ``paths_file`` the path of each row, as a JSON list. They get their names once they are whole.
    Raises OutputError as ``staged`` does.
    """
    width = read_embedder(artifact).width
    writer = _parquet if file.suffix == ".parquet" else _npy
    with ExitStack() as stack:
        temporary = [
            stack.enter_context(staged(path, sources=(), force=force, option=OPTION))
            for path in ([file] if writer is _parquet else [file, paths_file(file)])
        ]
        yield stack.enter_context(writer(temporary, width, artifact))


@contextmanager
def _parquet(temporary: list[Path], width: int, artifact: Artifact) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet

    from levit_deploy.prediction.parquet import facts

    columns = [("path", pa.string()), ("vector", pa.list_(pa.float32(), width))]
    schema = pa.schema(columns, metadata=facts(artifact))
    paths: list[str] = []
    vectors: list[FloatArray] = []
    with pa.parquet.ParquetWriter(temporary[0], schema) as parquet:

        def flush() -> None:
            matrix = pa.array(np.concatenate(vectors), pa.float32())
            rows = [pa.array(paths, pa.string()), pa.FixedSizeListArray.from_arrays(matrix, width)]
            parquet.write_table(pa.Table.from_arrays(rows, schema=schema))
            paths.clear()
            vectors.clear()

        def write(path: Path, vector: FloatArray) -> None:
            paths.append(as_utf8(path))
            vectors.append(vector)
            if len(paths) == ROWS:
                flush()

        yield write
        if paths:
            flush()


@contextmanager
def _npy(temporary: list[Path], width: int, _artifact: Artifact) -> Iterator[Write]:
    matrix, paths = temporary
    rows = 0
    with matrix.open("wb") as numbers, paths.open("w", encoding="utf-8") as names:
        start = _header(0, width)
        numbers.write(start)
        names.write("[")

        def write(path: Path, vector: FloatArray) -> None:
            nonlocal rows
            numbers.write(vector.astype("<f4", copy=False).tobytes())
            names.write(("," if rows else "") + "\n" + json.dumps(as_utf8(path)))
            rows += 1

        yield write
        names.write("\n]\n")
        numbers.seek(0)  # now that the number of rows is known
        numbers.write(_header(rows, width))


def _header(rows: int, width: int) -> bytes:
    """The beginning of a .npy file, as long for any number of rows (NEP 1)."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width})}}"
    length = 128 - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + f"{text:<{length - 1}}\n".encode()
