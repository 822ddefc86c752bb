"""The steps from sources to the files of a corpus, each in parallel where it can be, each continued where it was left.

1. Units are read into pieces of text, by workers.
2. Documents are chosen and split, from the keys of all of them, in this process.
3. The tokenizer is trained, in this process.
4. Runs of documents are tokenized into pieces, by workers.
5. The pieces are joined to token stores, by workers.

What a step writes depends on the sources and options alone: not on the number of workers, nor on interruptions.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from unipool_dist.base.progress_bars import Progress
from unipool_dist.data.corpus_manifest import SPLITS, Domain, FileRecord, TokenizerRecord, record_file, store_dtype
from unipool_dist.data.documents import MIN_DOCUMENTS
from unipool_dist.data.given_tokenizer import GivenTokenizer
from unipool_dist.data.joining import Joined, JoinPieces, unigram_entropy
from unipool_dist.data.keys import Keys, Rows
from unipool_dist.data.packing import TokenizerFiles, TokenPiece, tokenize_runs
from unipool_dist.data.selection import Choice, Read, select
from unipool_dist.data.shares import Share
from unipool_dist.data.sources.base import Source
from unipool_dist.data.sources.tally import Tally
from unipool_dist.data.spool import Spool
from unipool_dist.data.text_pieces import CutUnits, ReadUnit, TextPiece
from unipool_dist.data.texts import Texts
from unipool_dist.data.tokenizer import TOKENIZER_FILES
from unipool_dist.data.vocabulary import tokenizer_record, train_sentencepiece
from unipool_dist.data.work import Work
from unipool_dist.data.workers import Task, Workers

Counts = npt.NDArray[np.int64]
T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class Recipe:
    """What a corpus is made from. ``given``: the tokenizer; without it one with ``vocab_size`` pieces is trained."""

    sources: Sequence[Source]
    max_bad_rows: int | None
    choice: Choice
    given: GivenTokenizer | None
    vocab_size: int


@dataclass(frozen=True)
class Waiting:
    """This share is read, or tokenized, and ``missing`` pieces of other shares are not."""

    stage: Literal["read", "tokenized"]
    missing: int


@dataclass(frozen=True)
class Ready:
    """All is tokenized. ``pieces``: those of each token store, in the order of :func:`stores`."""

    spools: list[Spool]
    tokenizer: TokenizerRecord
    pieces: list[list[TokenPiece]]


@dataclass(frozen=True)
class Builder:
    """What all steps need."""

    recipe: Recipe
    work: Work
    workers: Workers
    progress: Progress
    share: Share

    def build(self) -> Waiting | Ready:
        """Do this share of steps 1 to 4, as far as it can be done before other shares are done.

        Raises:
            DataError: a source cannot be read, or has too many bad rows or too few documents; no tokenizer can be made.
        """
        everything = self.read()
        if isinstance(everything, Waiting):
            return everything
        spools = select(everything, self.recipe.choice)
        record = self._make_tokenizer(spools)
        pieces = self._tokenize(spools, record)
        return pieces if isinstance(pieces, Waiting) else Ready(spools, record, pieces)

    def join(self, ready: Ready, folder: Path) -> tuple[dict[str, Domain], dict[str, FileRecord]]:
        """Write the files of a corpus but for its manifest into ``folder``; return the records of domains and files."""
        kind = ready.tokenizer.kind
        for name in TOKENIZER_FILES[kind]:
            shutil.copyfile(self.work.tokenizer / name, folder / name)
        files = {name: record_file(folder / name) for name in TOKENIZER_FILES[kind]}
        prefixes = [f"{spool.domain}.{side}" for spool, side, _ in stores(ready.spools)]
        tasks = [
            JoinPieces(pieces, folder / prefix, ready.tokenizer.vocab_size)
            for prefix, pieces in zip(prefixes, ready.pieces, strict=True)
        ]
        joined: dict[str, Joined] = {}
        sizes = [sum(piece.path.stat().st_size for piece in pieces) for pieces in ready.pieces]
        with self.progress.bytes("join", sum(sizes)) as count:
            for index, result in self.workers.run(tasks, sizes, count):
                joined[prefixes[index]] = result
        files |= {f"{prefix}.{end}": joined[prefix].files[end] for prefix in prefixes for end in ("bin", "idx")}
        counts = {prefix: store.counts for prefix, store in joined.items()}
        domains = {
            spool.domain: _domain(spool, *(counts[f"{spool.domain}.{side}"] for side in SPLITS))
            for spool in ready.spools
        }
        return domains, files

    def read(self) -> list[Read] | Waiting:
        """Read this share of the units; return what was read of all sources, if other shares have read theirs."""
        sources, max_bad_rows = self.recipe.sources, self.recipe.max_bad_rows
        sides = [self._reading(source) for source in sources]
        tasks = [task for pair in sides for side in pair for task in side]
        self._run(self.share, "read", tasks, lambda task: task.piece.exists(), lambda task: task.unit.num_bytes)
        if missing := sum(not task.piece.exists() for task in tasks):
            return Waiting("read", missing)
        found = [
            (_gather(held_out, source, max_bad_rows), _gather(others, source, max_bad_rows))
            for source, (held_out, others) in zip(sources, sides, strict=True)
        ]
        cuts = {
            i: CutUnits(sources[i].units, self.work.piece(sources[i], "cut"))
            for i, (_, others) in enumerate(found)
            if sum(map(len, others.keys)) < MIN_DOCUMENTS
        }
        # Whoever gets here needs these, and all make the same; there is little to do.
        self._run(Share(), "cut", list(cuts.values()), lambda task: task.piece.exists(), lambda task: 0)
        if self.share.is_all:
            self.work.keep_texts([*(task.piece for task in tasks), *(task.piece for task in cuts.values())])
        return [
            _joined(source, held_out, _Gathered([cuts[i].piece], [cuts[i].piece.read()[0]], others.tally))
            if i in cuts
            else _joined(source, held_out, others)
            for i, (source, (held_out, others)) in enumerate(zip(sources, found, strict=True))
        ]

    def _make_tokenizer(self, spools: Sequence[Spool]) -> TokenizerRecord:
        """Write the tokenizer's files into the work folder, unless they are there."""
        given = self.recipe.given
        if given is not None:
            self.work.make_tokenizer(given.write)
            return tokenizer_record(given.kind, self.work.tokenizer)
        self.work.make_tokenizer(
            lambda folder: train_sentencepiece(spools, self.recipe.vocab_size, folder, self.progress)
        )
        return tokenizer_record("sentencepiece", self.work.tokenizer)

    def _tokenize(self, spools: Sequence[Spool], record: TokenizerRecord) -> list[list[TokenPiece]] | Waiting:
        """Tokenize this share; return the pieces of each store, if other shares have tokenized theirs."""
        files = TokenizerFiles(record.kind, self.work.tokenizer, record.sha256)
        of_stores = [tokenize_runs(spool, rows, files, self.work.tokens) for spool, _, rows in stores(spools)]
        tasks = [task for tasks in of_stores for task in tasks]
        dtype = store_dtype(record.vocab_size)
        self._run(
            self.share, "tokenize", tasks, lambda task: task.is_done(dtype), lambda task: int(task.texts.sizes.sum())
        )
        if missing := sum(not task.is_done(dtype) for task in tasks):
            return Waiting("tokenized", missing)
        if self.share.is_all:
            self.work.keep_tokens(task.piece.path for task in tasks)
        return [[task.piece for task in tasks] for tasks in of_stores]

    def _reading(self, source: Source) -> tuple[list[ReadUnit], list[ReadUnit]]:
        """Return the tasks that read the units of its own validation, and all others."""
        held_out, others = (
            [
                ReadUnit(unit, self.work.piece(source, side, unit.name), source.domain, self.recipe.max_bad_rows)
                for unit in units
            ]
            for side, units in ((SPLITS[1], source.validation or ()), (SPLITS[0], source.units))
        )
        return held_out, others

    def _run(
        self, share: Share, what: str, tasks: Sequence[T], is_done: Callable[[T], bool], size: Callable[[T], int]
    ) -> None:
        """Do what is left of a share of ``tasks``, whose sizes are in bytes, 0 if unknown."""
        mine = share.of(tasks, size)
        left = [task for task in mine if not is_done(task)]
        if not left:
            return
        total, to_do = sum(map(size, mine)), sum(map(size, left))
        known = total if all(map(size, left)) else None
        with self.progress.bytes(what, known, total - to_do) as count:
            for _ in self.workers.run(left, [size(task) for task in left], count):
                pass


@dataclass(frozen=True)
class _Gathered:
    """Pieces of text of one side of a source, with what they hold."""

    pieces: list[TextPiece]
    keys: list[Keys]
    tally: Tally


def _gather(tasks: Sequence[ReadUnit], source: Source, max_bad_rows: int | None) -> _Gathered:
    tally, keys = Tally(), []
    for task in tasks:
        its_keys, its_tally = task.piece.read()
        keys.append(its_keys)
        tally.add(its_tally)
    if tasks:
        tally.check(source.domain, max_bad_rows)
    return _Gathered([task.piece for task in tasks], keys, tally)


def _joined(source: Source, held_out: _Gathered, others: _Gathered) -> Read:
    tally = Tally()
    for part in (others, held_out):
        tally.add(part.tally)
    texts = Texts([*held_out.pieces, *others.pieces], [*held_out.keys, *others.keys])
    return Read(source, texts, sum(map(len, held_out.keys)), tally)


def stores(spools: Sequence[Spool]) -> list[tuple[Spool, str, Rows]]:
    """Return the token stores of a corpus in their order: the domain, the side, and the rows of its documents."""
    return [
        (spool, side, rows)
        for spool in spools
        for side, rows in zip(SPLITS, (spool.split.train, spool.split.validation), strict=True)
    ]


def _domain(spool: Spool, train: Counts, validation: Counts) -> Domain:
    split = spool.split
    return Domain(
        origins=spool.origins,
        train_documents=len(split.train),
        validation_documents=len(split.validation),
        train_bytes=spool.num_bytes(split.train),
        validation_bytes=spool.num_bytes(split.validation),
        train_tokens=int(train.sum()),
        validation_tokens=int(validation.sum()),
        unigram_entropy=unigram_entropy(train, validation),
        rows=spool.rows,
    )
