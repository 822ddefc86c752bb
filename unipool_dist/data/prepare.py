"""Prepare a corpus: sources to spools, a tokenizer, token stores, and last the manifest.

Guarantees: everything is written aside and becomes the corpus once the manifest is on disk, see
:mod:`unipool_dist.data.place`; after an interruption at any point the next call starts clean, keeping only downloads.
Equal options and sources give equal files, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipool_dist.base.belongings import discard
from unipool_dist.base.progress_bars import Progress
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.corpus_manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    SPLITS,
    Manifest,
    combined_hash,
    record_file,
    write_manifest,
)
from unipool_dist.data.documents import MAX_VALIDATION_FRACTION
from unipool_dist.data.given_tokenizer import GivenTokenizer, given_tokenizer
from unipool_dist.data.packing import pack_domain
from unipool_dist.data.place import SPOOL, Place
from unipool_dist.data.sources import Source, corpus_sources, local_source
from unipool_dist.data.sources.packages import Runner, run_command
from unipool_dist.data.sources.tally import Reading
from unipool_dist.data.spool import Spooler
from unipool_dist.data.tokenizer import TOKENIZER_FILES, TokenizerKind, load_tokenizer
from unipool_dist.data.vocabulary import gpt2_files, tokenizer_record, train_sentencepiece
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
) -> tuple[Manifest, bool]:
    """Prepare ``options`` into ``out``; return the manifest, and whether anything had to be done.

    ``cache`` keeps downloads (default: ``out/downloads``); ``force`` replaces a corpus of other options.

    Raises:
        DataError: a source or package is not available, ``out`` holds another corpus or something else, or another
            process prepares it now.
        ForeignError: what would be replaced or deleted, at ``out`` or next to it, is not all of a corpus.
    """
    place = Place(out.absolute())
    local = options.local_sources()
    given = options.given_tokenizer()
    recorded = options.record(local, given)
    if not force and (existing := _existing(place.out, recorded)) is not None:
        return existing, False
    with place.locked() as partial:
        sources = iter(local) if local else corpus_sources(options.corpus, cache or place.downloads, run)
        manifest = _build(partial, options, given, recorded, sources, progress or Progress())
        place.publish()
    return manifest, True


def _build(
    partial: Path,
    options: PrepareOptions,
    given: GivenTokenizer | None,
    recorded: dict[str, Any],
    sources: Iterable[Source],
    progress: Progress,
) -> Manifest:
    spooler = Spooler(partial / SPOOL, options.reading, progress)
    if options.validation:
        sources = list(sources)
        for source in sources:
            spooler.hold_out(source)
    spools = [spooler.spool(source, options.validation_fraction, options.max_bytes_per_domain) for source in sources]
    kind: TokenizerKind = "sentencepiece"
    if given is None:
        train_sentencepiece(spools, options.vocab_size, partial, progress)
    else:
        kind = given.kind
        given.write(partial)
    record = tokenizer_record(kind, partial)
    tokenizer = load_tokenizer(kind, partial, record.sha256)
    domains = {spool.domain: pack_domain(spool, tokenizer, partial, progress) for spool in spools}
    names = [f"{domain}.{split}.{end}" for domain in domains for split in SPLITS for end in ("bin", "idx")]
    files = {name: record_file(partial / name) for name in [*TOKENIZER_FILES[kind], *names]}
    discard(partial / SPOOL)
    manifest = Manifest(format_version=FORMAT_VERSION, options=recorded, tokenizer=record, domains=domains, files=files)
    write_manifest(manifest, partial)
    return manifest


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
