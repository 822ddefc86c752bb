"""Datasets of the Hugging Face Hub, streamed by its library."""

from __future__ import annotations

from unipool_dist.base.rows.frames import Rows, text_or_fault, without_field


def hub_rows(name: str, config: str | None, split: str, field: str) -> Rows:
    """Yield the text of every row of one split.

    Errors are of any kind, from the network, Arrow and the library.
    """
    import datasets

    rows = datasets.load_dataset(name, name=config, split=split, streaming=True)
    if field in (rows.column_names or ()):
        rows = rows.select_columns([field])
    for number, row in enumerate(rows, 1):
        if field in row:
            yield number, text_or_fault(row[field], field, f"a value of type {type(row[field]).__name__}")
        else:
            yield number, without_field(field, map(str, row))
