"""What options say about sources of text, and what was read of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click

from unipool_dist.base.printable import aligned, printable
from unipool_dist.data.corpus_manifest import Domain, RowCounts
from unipool_dist.errors import DataError


class BadRows(click.ParamType):
    """``skip``, ``fail`` or a number: how many bad rows a source may have, ``None`` for any number."""

    name = "skip|fail|N"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value is None or value == "skip":
            return None
        if value == "fail":
            return 0
        number = str(value)
        if not (number.isascii() and number.isdecimal() and len(number) <= 18):
            self.fail(f"{number!r} is none of skip, fail and a number", param, ctx)
        return int(number)


def locations(option: str, pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``NAME=LOCATION`` pairs into a dictionary.

    Raises:
        DataError: one is not a pair, or a name comes twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, location = pair.partition("=")
        if not separator or not location:
            raise DataError(f"{option} {pair} is not NAME=LOCATION: for example {option} news=news.jsonl")
        if name in found:
            raise DataError(
                f"{option} names the domain {name!r} twice: put its files into one folder, or name them in a file, "
                f"{name}=list:FILE"
            )
        found[name] = location
    return found


def rows_table(domains: Mapping[str, Domain]) -> list[str]:
    """Return lines that say, for each domain, how many rows were read, kept and dropped, and where the first ones are.

    Corpora of earlier versions, which did not count, give none.
    """
    counted = {name: (domain, domain.rows) for name, domain in domains.items() if domain.rows is not None}
    if not counted:
        return []
    table = [("rows of", "read", "kept", "dropped")]
    for name, (domain, rows) in counted.items():
        kept = domain.train_documents + domain.validation_documents
        table.append((name, f"{rows.read:,}", f"{kept:,}", _dropped(rows)))
    return [
        *aligned(table, right=(1, 2)),
        *(line for name, (_, rows) in counted.items() for line in _notes(name, rows)),
    ]


def _dropped(rows: RowCounts) -> str:
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in rows.dropped.items())
    return reasons or "0"


def _notes(name: str, rows: RowCounts) -> Iterator[str]:
    for reason, examples in rows.examples.items():
        for example in examples:
            yield printable(f"{name}: {reason}: {example}")
        others = rows.dropped.get(reason, 0) - len(examples)
        if others > 0:
            yield printable(f"{name}: {reason}: and {others:,} more")
    for kind, number in rows.files_passed_over.items():
        yield printable(f"{name}: files passed over: {number:,} {kind}")
