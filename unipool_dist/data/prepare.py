"""Prepare a corpus: sources to pieces of text, a tokenizer, pieces of tokens, token stores, and last the manifest.

Guarantees: everything is written aside and becomes the corpus once the manifest is on disk, see
:mod:`unipool_dist.data.place`; after an interruption at any point the next call continues with the pieces that are
whole (:mod:`unipool_dist.data.work`). Equal options and sources give equal files, byte for byte, by however many
processes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipool_dist.base.belongings import discard
from unipool_dist.base.progress_bars import Progress
from unipool_dist.base.user_code import is_user_code
from unipool_dist.data.building import Builder, Ready, Recipe, Waiting
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.corpus_manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, combined_hash, write_manifest
from unipool_dist.data.documents import MAX_VALIDATION_FRACTION
from unipool_dist.data.given_tokenizer import GivenTokenizer, given_tokenizer
from unipool_dist.data.place import WORK_FOLDER, Place
from unipool_dist.data.selection import Choice
from unipool_dist.data.shares import Share
from unipool_dist.data.sources import Source, corpus_sources, local_source
from unipool_dist.data.sources.packages import Runner, run_command
from unipool_dist.data.sources.tally import Reading
from unipool_dist.data.vocabulary import gpt2_files
from unipool_dist.data.work import Work, identity_of
from unipool_dist.data.workers import Workers
from unipool_dist.errors import DataError

DEFAULT_VOCAB_SIZE = 4096


@dataclass(frozen=True)
class PrepareOptions:
    """Options that decide a corpus's content. ``sources`` (name to location) replace the built-in ``corpus``.

    ``validation`` (name to location) is the validation text of these sources, instead of a part of theirs.
    ``skip_unknown`` and ``reading`` say what becomes of files and rows that cannot be read.

    ``tokenizer`` is taken as :func:`unipool_dist.data.given_tokenizer.given_tokenizer` finds it. Without it and GPT-2's
    files, SentencePiece with ``vocab_size`` pieces is trained.
    """

    corpus: str = "default"
    sources: dict[str, str] = field(default_factory=dict)
    validation: dict[str, str] = field(default_factory=dict)
    text_field: str = "text"
    skip_unknown: bool = False
    reading: Reading = field(default_factory=Reading)
    vocab_size: int = DEFAULT_VOCAB_SIZE
    tokenizer: Path | None = None
    eod_token: str | None = None
    gpt2_vocab: Path | None = None
    gpt2_merges: Path | None = None
    validation_fraction: float = 0.04
    max_bytes_per_domain: int | None = None

    def __post_init__(self) -> None:
        if (self.gpt2_vocab is None) != (self.gpt2_merges is None):
            raise DataError("gpt2_vocab and gpt2_merges go together: give --gpt2-vocab and --gpt2-merges, or neither")
        if others := [name for name in self.validation if name not in self.sources]:
            raise DataError(f"--validation {others[0]}=... has no --source {others[0]}=... to train on: give both")
        if self.tokenizer is not None and self.gpt2_vocab is not None:
            raise DataError("--tokenizer and --gpt2-vocab are two tokenizers: give one")
        if self.eod_token is not None and self.tokenizer is None:
            raise DataError("--eod-token is for the tokenizer given with --tokenizer: give that, or leave it out")
        if not 0.0 < self.validation_fraction <= MAX_VALIDATION_FRACTION:
            raise DataError(
                f"validation_fraction={self.validation_fraction} is outside (0, {MAX_VALIDATION_FRACTION}]: use 0.04"
            )
        if not 1 <= self.vocab_size < 1 << 31:
            raise DataError(f"vocab_size={self.vocab_size} is outside [1, 2^31): use 4096, or leave it out")
        if self.max_bytes_per_domain is not None and self.max_bytes_per_domain < 1:
            raise DataError(f"max_bytes_per_domain={self.max_bytes_per_domain} is below 1: leave it out for no limit")

    def local_sources(self) -> list[Source]:
        """Return the user's own sources.

        Raises:
            DataError: one is not there, or cannot be read.
        """
        return [
            local_source(
                name,
                location,
                self.text_field,
                validation=self.validation.get(name),
                skip_unknown=self.skip_unknown,
            )
            for name, location in self.sources.items()
        ]

    def given_tokenizer(self) -> GivenTokenizer | None:
        """Read the tokenizer that the user has; ``None`` if one is to be trained.

        Raises:
            DataError: it cannot be used.
        """
        if self.tokenizer is not None:
            return given_tokenizer(self.tokenizer, self.eod_token)
        if self.gpt2_vocab is not None and self.gpt2_merges is not None:
            return gpt2_files(self.gpt2_vocab, self.gpt2_merges)
        return None

    def record(self, sources: list[Source], given: GivenTokenizer | None) -> dict[str, Any]:
        """Return what the manifest says of the options: files by their content, so that moving them changes nothing."""
        text: dict[str, Any] = {"corpus": self.corpus}
        if self.sources:
            hashes = {source.domain: combined_hash({o.name: o.sha256 for o in source.origins}) for source in sources}
            text = {"sources": hashes, "text_field": self.text_field}
        if self.validation:
            text["validation"] = sorted(self.validation)  # their content is in the hashes
        if not self.reading.dedup:
            text["dedup"] = False
        if given is None:
            tokenizer: dict[str, Any] = {"vocab_size": self.vocab_size}
        elif self.tokenizer is not None:
            tokenizer = {"tokenizer": given.sha256}
        else:
            tokenizer = {"gpt2": [hashlib.sha256(data).hexdigest() for data in given.files.values()]}
        limits = {"validation_fraction": self.validation_fraction, "max_bytes_per_domain": self.max_bytes_per_domain}
        return {**text, **tokenizer, **limits}


def prepare(
    out: Path,
    options: PrepareOptions,
    *,
    cache: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    run: Runner = run_command,
    workers: int | None = None,
) -> tuple[Manifest, bool]:
    """Prepare ``options`` into ``out``; return the manifest, and whether anything had to be done.

    Args:
        cache: keeps downloads (default: ``out/downloads``).
        force: replace a corpus of other options.
        workers: processes that read and tokenize; ``None`` for as many as there are processors and the text is worth.

    Raises:
        DataError: a source or package is not available, ``out`` holds another corpus or something else, or another
            process prepares it now.
        ForeignError: what would be replaced or deleted, at ``out`` or next to it, is not all of a corpus.
    """
    plan = _Plan.of(out, options)
    if not force and (existing := _existing(plan.place.out, plan.recorded)) is not None:
        return existing, False
    with plan.place.locked() as partial, Workers(workers) as pool:
        builder = plan.builder(partial, cache or plan.place.downloads, run, pool, progress or Progress())
        ready = builder.build()
        assert isinstance(ready, Ready)  # there are no other shares to wait for
        domains, files = builder.join(ready, partial)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            options=plan.recorded,
            tokenizer=ready.tokenizer,
            domains=domains,
            files=files,
        )
        write_manifest(manifest, partial)
        discard(partial / WORK_FOLDER)
        plan.place.publish()
    return manifest, True


def prepare_share(
    out: Path,
    options: PrepareOptions,
    share: Share,
    *,
    cache: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    run: Runner = run_command,
    workers: int | None = None,
) -> Waiting | Ready:
    """Do as much of a share of the preparation of ``options`` into ``out`` as can be done by now.

    That is to read this share of the units; and, if all shares have been read, to tokenize this share of the text. Then
    :func:`prepare` has only to join what is there; it also does what shares have left undone.

    Args:
        force: a corpus of other options is to be replaced.

    Raises:
        DataError: as :func:`prepare`; or nothing says whether the sources are the same the next time.
    """
    plan = _Plan.of(out, options)
    if not force:
        _existing(plan.place.out, plan.recorded)
    with plan.place.shared() as partial, Workers(workers) as pool:
        builder = plan.builder(partial, cache or plan.place.downloads, run, pool, progress or Progress(), share)
        return builder.build()


@dataclass(frozen=True)
class _Plan:
    """What is known before anything is done. ``local``: the user's own sources, none for a built-in corpus."""

    options: PrepareOptions
    place: Place
    local: list[Source]
    given: GivenTokenizer | None
    recorded: dict[str, Any]

    @classmethod
    def of(cls, out: Path, options: PrepareOptions) -> _Plan:
        place = Place(out.absolute())
        local = options.local_sources()
        given = options.given_tokenizer()
        return cls(options, place, local, given, options.record(local, given))

    def builder(
        self, partial: Path, cache: Path, run: Runner, workers: Workers, progress: Progress, share: Share | None = None
    ) -> Builder:
        """Fetch what has to be fetched; return what builds the corpus in the folder ``partial``."""
        options = self.options
        sources = self.local or list(corpus_sources(options.corpus, cache, run))
        # What a function of the user's own yields may be something else the next time, unless its origins say not.
        repeatable = not is_user_code(options.corpus) or all(o.sha256 for source in sources for o in source.origins)
        if share is not None and not self.local and not repeatable:
            raise DataError(
                f"corpus={options.corpus} can be prepared in shards only if every Origin has a sha256 of what the text "
                f"is made from: give them one, or leave out --shard"
            )
        choice = Choice(options.validation_fraction, options.max_bytes_per_domain, options.reading.dedup)
        recipe = Recipe(sources, options.reading.max_bad_rows, choice, self.given, options.vocab_size)
        identity = identity_of(self.recorded, sources, repeatable=bool(self.local) or repeatable)
        return Builder(recipe, Work(partial / WORK_FOLDER, identity), workers, progress, share or Share())


def _existing(out: Path, recorded: dict[str, Any]) -> Manifest | None:
    """Return the manifest of the undamaged corpus at ``out`` with these options; ``None`` if nothing is there."""
    if not (out / MANIFEST_NAME).exists():
        return None
    manifest = Corpus.open(out).manifest
    names = [name for name in {**manifest.options, **recorded} if manifest.options.get(name) != recorded.get(name)]
    if names:
        changes = ", ".join(f"{name}={manifest.options.get(name)} -> {recorded.get(name)}" for name in names)
        raise DataError(f"{out} holds a corpus prepared with other options ({changes}): choose another or add --force")
    return manifest
