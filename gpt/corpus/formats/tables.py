"""Corpora in tables: Parquet and Arrow files, and data sets of the Hugging Face hub. Rows are read in batches."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt.corpus.formats.rows import missing_column
from gpt.corpus.pieces import Piece
from gpt.errors import UserError, reaching_hub, requires
from gpt.options import COMMIT, HUB, split_revision

TABLE_SUFFIXES = (".parquet", ".arrow", ".feather")
BATCH_ROWS = 1000


def table_pieces(path: Path, column: str) -> Iterator[Piece]:
    """Yield the texts of a Parquet or Arrow file, a batch of rows at a time. OSError if the file is corrupt."""
    with requires("pyarrow"):
        import pyarrow as arrow
        import pyarrow.parquet
    try:
        with arrow.OSFile(str(path), "rb") as file:
            batches = parquet_batches if path.suffix == ".parquet" else arrow_batches
            for batch, size in batches(arrow, file, path.name, column):
                batch.validate(full=True)  # otherwise corrupt offsets lead anywhere in memory
                yield Piece(str(path), texts(str(path), column, batch.column(column).to_pylist()), size)
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise OSError(str(error)) from None


def texts(name: str, column: str, values: Sequence[Any]) -> list[str]:
    """The values of a column without empty ones. UserError if they are not texts, but binary or numbers, say."""
    kinds = {type(value) for value in values} - {str, type(None)}
    if kinds:
        raise UserError(
            f"{name}: its column {column} has values of type {kinds.pop().__name__}, not texts: choose another with "
            "--text-column of python -m gpt.prepare, or convert it"
        )
    return [text for text in values if text]


def parquet_batches(arrow: Any, file: Any, name: str, column: str) -> Iterator[tuple[Any, int]]:
    """Yield batches of rows, each with its share of the file's bytes in proportion to its rows."""
    parquet = arrow.parquet.ParquetFile(file)
    if column not in parquet.schema_arrow.names:
        raise missing_column(name, column, parquet.schema_arrow.names)
    size, rows, done = file.size(), parquet.metadata.num_rows, 0
    for batch in parquet.iter_batches(BATCH_ROWS, columns=[column]):
        before, done = done, done + batch.num_rows
        yield batch, size * done // rows - size * before // rows


def arrow_batches(arrow: Any, file: Any, name: str, column: str) -> Iterator[tuple[Any, int]]:
    """Yield batches of rows and their bytes, from Arrow's file format or its stream format."""
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    reader = arrow.ipc.open_file(file) if is_file else arrow.ipc.open_stream(file)
    if column not in reader.schema.names:
        raise missing_column(name, column, reader.schema.names)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            rows = batch.slice(start, BATCH_ROWS)
            yield rows, rows.nbytes


def open_hub_dataset(name: str, column: str, streaming: bool) -> tuple[str, int | None, Callable[[], Iterator[Piece]]]:
    """The training split of `hf:NAME@REVISION:CONFIGURATION`, of which the last two may be missing.

    Returns its name with the commit that it was found at, its size if known, and a function for its pieces.
    """
    path, _, configuration = name.removeprefix(HUB).partition(":")
    path, revision = split_revision(path)
    remedy = "download its files on another machine and give their folder instead"
    with requires("datasets"):
        import datasets
    with reaching_hub(name, remedy):
        builder = datasets.load_dataset_builder(path, configuration or None, revision=revision)
        commit = str(builder.hash) if builder.repo_id else ""  # a folder of this machine has none
        if revision and COMMIT.fullmatch(revision) and commit != revision:  # `datasets` takes any that it has offline
            raise OSError(f"only its revision {commit} is on this machine")
        if COMMIT.fullmatch(commit):
            name = f"{HUB}{path}@{commit}" + (f":{configuration}" if configuration else "")
        if not streaming:
            builder.download_and_prepare()
        dataset = builder.as_streaming_dataset("train") if streaming else builder.as_dataset("train")

    def pieces() -> Iterator[Piece]:
        with reaching_hub(name, remedy):
            for batch in dataset.iter(BATCH_ROWS):
                if column not in batch:
                    raise missing_column(name, column, batch)
                found = texts(name, column, batch[column])
                yield Piece(name, found, sum(map(len, found)))

    return name, None if streaming else dataset.size_in_bytes, pieces
