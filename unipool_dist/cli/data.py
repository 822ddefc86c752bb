"""``unipool-dist data``: prepare corpora and show them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unipool_dist.base.console import say
from unipool_dist.base.printable import aligned
from unipool_dist.base.system_errors import at
from unipool_dist.base.units import counted
from unipool_dist.base.user_code import trust
from unipool_dist.cli.caches import writable_cache
from unipool_dist.cli.option_types import BYTES, PROCESSES_HERE, VOCABULARY, Finite
from unipool_dist.cli.source_options import BadRows, locations, rows_table
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.corpus_manifest import Domain, Manifest, TokenizerRecord
from unipool_dist.errors import DataError

if TYPE_CHECKING:
    from unipool_dist.data.building import Ready, Waiting

MAX_SHOWN = 8
"""Special tokens; some tokenizers have hundreds that are reserved."""


@click.group()
def data() -> None:
    """Prepare corpora, and show what they hold."""


@data.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--corpus",
    default="default",
    show_default=True,
    help="default (4 domains), ten-domains (needs apt-get), or module:function of your own.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME=LOCATION",
    help="A domain of your own: a file, a folder, glob:PATTERN, list:FILE, or hf:DATASET[:CONFIG[:SPLIT]]. Repeatable; "
    "replaces --corpus.",
)
@click.option(
    "--validation",
    multiple=True,
    metavar="NAME=LOCATION",
    help="Validation text for --source NAME, instead of a part of its own.",
)
@click.option("--text-field", default="text", show_default=True, help="Field of rows that has the text.")
@click.option(
    "--bad-rows",
    type=BadRows(),
    default="skip",
    show_default=True,
    metavar="skip|fail|N",
    help="Rows without a text: drop and count them, fail at the first, or at more than N of a source.",
)
@click.option("--skip-unknown", is_flag=True, help="Pass over files in folders that cannot be read, and count them.")
@click.option("--dedup/--no-dedup", default=True, show_default=True, help="Keep equal documents once.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="Use this one: a tokenizer.json, a SentencePiece model, or the folder of a model, corpus or export that has "
    "one.  [default: train SentencePiece]",
)
@click.option(
    "--eod-token", metavar="TOKEN", help="Token of --tokenizer that ends documents.  [default: what its files say]"
)
@click.option("--vocab-size", type=VOCABULARY, help="Pieces of the SentencePiece tokenizer to train.  [default: 4096]")
@click.option("--gpt2-vocab", type=click.Path(path_type=Path), help="Use GPT-2's BPE: its encoder.json ...")
@click.option("--gpt2-merges", type=click.Path(path_type=Path), help="... and its vocab.bpe.")
@click.option(
    "--validation-fraction",
    type=Finite(),
    default=0.04,
    show_default=True,
    help="Share of each domain's bytes held out.",
)
@click.option(
    "--max-bytes-per-domain",
    type=BYTES,
    help="Keep at most this much text per domain, chosen by hash.",
)
@click.option("--cache", type=click.Path(path_type=Path), help="Folder for downloads.  [default: OUT/downloads]")
@click.option("--force", is_flag=True, help="Replace a corpus prepared with other options.")
@click.option(
    "--workers",
    type=PROCESSES_HERE,
    help="Processes that read and tokenize.  [default: what the text is worth, up to the processors here and 8]",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Do the I-th of N shares of the work, I from 0. When all have run twice, the same without it does the rest.",
)
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Progress bars, in a log lines with the time left.  [default: if stderr is a terminal]",
)
def prepare(
    out: Path,
    corpus: str,
    sources: tuple[str, ...],
    validation: tuple[str, ...],
    text_field: str,
    bad_rows: int | None,
    skip_unknown: bool,
    dedup: bool,
    tokenizer: Path | None,
    eod_token: str | None,
    vocab_size: int | None,
    gpt2_vocab: Path | None,
    gpt2_merges: Path | None,
    validation_fraction: float,
    max_bytes_per_domain: int | None,
    cache: Path | None,
    force: bool,
    workers: int | None,
    shard: str | None,
    progress: bool | None,
) -> None:
    """Write a tokenized corpus to the directory OUT.

    What is done is kept in OUT.partial: interrupted, the same command continues. The result does not depend on the
    number of workers or shards.
    """
    from unipool_dist.base.progress_bars import Progress
    from unipool_dist.data.prepare import DEFAULT_VOCAB_SIZE, PrepareOptions, prepare_share
    from unipool_dist.data.prepare import prepare as prepare_corpus
    from unipool_dist.data.shares import Share
    from unipool_dist.data.sources.tally import Reading

    if vocab_size is not None and tokenizer is not None:
        raise DataError("--vocab-size is for a tokenizer that is trained, and --tokenizer gives one: leave one out")
    options = PrepareOptions(
        corpus=corpus,
        sources=locations("--source", sources),
        validation=locations("--validation", validation),
        text_field=text_field,
        skip_unknown=skip_unknown,
        reading=Reading(bad_rows, dedup),
        tokenizer=tokenizer,
        eod_token=eod_token,
        vocab_size=DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size,
        gpt2_vocab=gpt2_vocab,
        gpt2_merges=gpt2_merges,
        validation_fraction=validation_fraction,
        max_bytes_per_domain=max_bytes_per_domain,
    )
    trust([corpus])
    bars = Progress(progress)
    with at(out), writable_cache():
        if shard is not None:
            share = Share.parse(shard)
            done_so_far = prepare_share(out, options, share, cache=cache, force=force, workers=workers, progress=bars)
            say(f"{out}: {told(done_so_far, shard)}")
            return
        manifest, done = prepare_corpus(out, options, cache=cache, force=force, workers=workers, progress=bars)
    say(f"{out}: prepared" if done else f"{out}: already prepared")
    say(render(manifest))


@data.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--tokens", multiple=True, metavar="NAME=PATH", help="A domain: PATH.bin and PATH.idx of Megatron. Repeatable."
)
@click.option(
    "--validation", multiple=True, metavar="NAME=PATH", help="Its validation.  [default: a share of --tokens]"
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    required=True,
    help="The one that made the tokens: a tokenizer.json, a SentencePiece model, or a folder that has one.",
)
@click.option(
    "--eod-token", metavar="TOKEN", help="Token of --tokenizer that ends documents.  [default: what its files say]"
)
@click.option(
    "--validation-fraction",
    type=Finite(),
    default=0.04,
    show_default=True,
    help="Share of each domain's tokens held out.",
)
@click.option("--force", is_flag=True, help="Replace a corpus at OUT.")
@click.option("--progress/--no-progress", default=None, help="Progress bars.  [default: if stderr is a terminal]")
def adopt(
    out: Path,
    tokens: tuple[str, ...],
    validation: tuple[str, ...],
    tokenizer: Path,
    eod_token: str | None,
    validation_fraction: float,
    force: bool,
    progress: bool | None,
) -> None:
    """Copy tokens that another program has prepared into a corpus at OUT.

    Every token is compared with the vocabulary, and the indices with the tokens.
    """
    from unipool_dist.base.progress_bars import Progress
    from unipool_dist.data.adopt import AdoptOptions
    from unipool_dist.data.adopt import adopt as adopt_tokens
    from unipool_dist.data.given_tokenizer import given_tokenizer

    options = AdoptOptions(
        tokens={name: Path(path) for name, path in locations("--tokens", tokens).items()},
        validation={name: Path(path) for name, path in locations("--validation", validation).items()},
        validation_fraction=validation_fraction,
    )
    with at(out):
        given = given_tokenizer(tokenizer, eod_token)
        manifest = adopt_tokens(out, options, given, force=force, progress=Progress(progress))
    say(f"{out}: adopted")
    say(render(manifest))


@data.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--verify", type=click.Choice(["size", "hash"]), default="size", show_default=True, help="How files are checked."
)
def show(path: Path, verify: str) -> None:
    """Check the corpus at PATH and print what it holds."""
    say(render(Corpus.open(path, verify="hash" if verify == "hash" else "size").manifest))


def told(done: Waiting | Ready, shard: str) -> str:
    """Return what a share of the preparation has done, and what comes next."""
    from unipool_dist.data.building import Ready

    if isinstance(done, Ready):
        return "all shards are done; the same command without --shard makes the corpus of them"
    missing = counted(done.missing, "piece")
    return f"shard {shard} is {done.stage}; {missing} of other shards are not: run these, and then all again"


def render(manifest: Manifest) -> str:
    """Return the manifest as a table: a line per domain, then the total, the tokenizer and the options."""
    rows = [
        ("domain", "documents", "MB", "train tokens", "valid. tokens", "bytes/token", "entropy", "source", "licence")
    ]
    for name, domain in manifest.domains.items():
        megabytes, bytes_per_token = _text_size(domain)
        rows.append(
            (
                name,
                f"{domain.train_documents + domain.validation_documents:,}",
                megabytes,
                f"{domain.train_tokens:,}",
                f"{domain.validation_tokens:,}",
                bytes_per_token,
                f"{domain.unigram_entropy:.3f}",
                ", ".join(f"{origin.name} {origin.version}".strip() for origin in domain.origins),
                ", ".join(sorted({origin.license for origin in domain.origins})),
            )
        )
    domains = manifest.domains.values()
    documents = sum(domain.train_documents + domain.validation_documents for domain in domains)
    sizes = [None if d.train_bytes is None else d.train_bytes + d.validation_bytes for d in domains]
    megabytes = "-" if None in sizes else f"{sum(size for size in sizes if size) / 1e6:.2f}"
    train, validation = sum(d.train_tokens for d in domains), sum(d.validation_tokens for d in domains)
    rows.append(("total", f"{documents:,}", megabytes, f"{train:,}", f"{validation:,}", "", "", "", ""))
    lines = aligned(rows, right=range(1, 7))
    lines += rows_table(manifest.domains)
    lines += _tokenizer(manifest.tokenizer)
    lines.append("options: " + ", ".join(f"{name}={value}" for name, value in manifest.options.items()))
    lines.append(f"content: {manifest.content_hash()[:16]}")
    return "\n".join(lines)


def _text_size(domain: Domain) -> tuple[str, str]:
    """Return a domain's megabytes of text and its bytes per token; of adopted tokens only the latter, in validation."""
    if domain.train_bytes is None:
        return "-", f"{domain.validation_bytes / domain.validation_tokens:.2f}"
    num_bytes = domain.train_bytes + domain.validation_bytes
    return f"{num_bytes / 1e6:.2f}", f"{num_bytes / (domain.train_tokens + domain.validation_tokens):.2f}"


def _tokenizer(record: TokenizerRecord) -> Iterator[str]:
    """Yield lines about the tokenizer: what it is, and which tokens are marks rather than text."""
    yield f"tokenizer: {record.kind}, vocab_size {record.vocab_size}, sha256 {record.sha256[:16]}"
    names = {i: name for name, i in record.special_tokens.items()}
    end = f"{names[record.eod]} ({record.eod})" if record.eod in names else f"token {record.eod}"
    others = [f"{names[i]} ({i})" for i in sorted(names) if i != record.eod]
    if len(others) > MAX_SHOWN:
        others[MAX_SHOWN - 1 :] = [f"and {len(others) - MAX_SHOWN + 1} more"]
    yield f"documents end with {end}" + (f"; other special tokens: {', '.join(others)}" if others else "")
