"""``unipool-dist data``: prepare corpora and show them."""

from __future__ import annotations

from pathlib import Path

import click

from unipool_dist.base.console import say
from unipool_dist.base.printable import aligned
from unipool_dist.base.system_errors import at
from unipool_dist.base.user_code import trust
from unipool_dist.cli.caches import writable_cache
from unipool_dist.cli.option_types import BYTES, VOCABULARY, Finite
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.corpus_manifest import Manifest
from unipool_dist.errors import DataError


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
    help="A domain of your own: a .jsonl, .txt or .parquet file, a folder of them, or hf:DATASET[:CONFIG]. Repeatable; "
    "replaces --corpus.",
)
@click.option("--text-field", default="text", show_default=True, help="Field of .jsonl, .parquet and hf: rows.")
@click.option(
    "--vocab-size",
    type=VOCABULARY,
    default=4096,
    show_default=True,
    help="Pieces of the SentencePiece tokenizer to train.",
)
@click.option("--gpt2-vocab", type=click.Path(path_type=Path), help="Use GPT-2's BPE instead: its encoder.json ...")
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
@click.option("--progress/--no-progress", default=None, help="Progress bars.  [default: if stderr is a terminal]")
def prepare(
    out: Path,
    corpus: str,
    sources: tuple[str, ...],
    text_field: str,
    vocab_size: int,
    gpt2_vocab: Path | None,
    gpt2_merges: Path | None,
    validation_fraction: float,
    max_bytes_per_domain: int | None,
    cache: Path | None,
    force: bool,
    progress: bool | None,
) -> None:
    """Write a tokenized corpus to the directory OUT."""
    from unipool_dist.base.progress_bars import Progress
    from unipool_dist.data.prepare import PrepareOptions
    from unipool_dist.data.prepare import prepare as prepare_corpus

    options = PrepareOptions(
        corpus=corpus,
        sources=_locations(sources),
        text_field=text_field,
        vocab_size=vocab_size,
        gpt2_vocab=gpt2_vocab,
        gpt2_merges=gpt2_merges,
        validation_fraction=validation_fraction,
        max_bytes_per_domain=max_bytes_per_domain,
    )
    trust([corpus])
    with at(out), writable_cache():
        manifest, done = prepare_corpus(out, options, cache=cache, force=force, progress=Progress(progress))
    say(f"{out}: prepared" if done else f"{out}: already prepared")
    say(render(manifest))


@data.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--verify", type=click.Choice(["size", "hash"]), default="size", show_default=True, help="How files are checked."
)
def show(path: Path, verify: str) -> None:
    """Check the corpus at PATH and print what it holds."""
    say(render(Corpus.open(path, verify="hash" if verify == "hash" else "size").manifest))


def render(manifest: Manifest) -> str:
    """Return the manifest as a table: a line per domain, then the total, the tokenizer and the options."""
    rows = [
        ("domain", "documents", "MB", "train tokens", "valid. tokens", "bytes/token", "entropy", "source", "licence")
    ]
    for name, domain in manifest.domains.items():
        num_bytes = domain.train_bytes + domain.validation_bytes
        rows.append(
            (
                name,
                f"{domain.train_documents + domain.validation_documents:,}",
                f"{num_bytes / 1e6:.2f}",
                f"{domain.train_tokens:,}",
                f"{domain.validation_tokens:,}",
                f"{num_bytes / (domain.train_tokens + domain.validation_tokens):.2f}",
                f"{domain.unigram_entropy:.3f}",
                ", ".join(f"{origin.name} {origin.version}".strip() for origin in domain.origins),
                ", ".join(sorted({origin.license for origin in domain.origins})),
            )
        )
    domains = manifest.domains.values()
    documents = sum(domain.train_documents + domain.validation_documents for domain in domains)
    megabytes = sum(domain.train_bytes + domain.validation_bytes for domain in domains) / 1e6
    train, validation = sum(d.train_tokens for d in domains), sum(d.validation_tokens for d in domains)
    rows.append(("total", f"{documents:,}", f"{megabytes:.2f}", f"{train:,}", f"{validation:,}", "", "", "", ""))
    lines = aligned(rows, right=range(1, 7))
    tokenizer = manifest.tokenizer
    lines.append(f"tokenizer: {tokenizer.kind}, vocab_size {tokenizer.vocab_size}, sha256 {tokenizer.sha256[:16]}")
    lines.append("options: " + ", ".join(f"{name}={value}" for name, value in manifest.options.items()))
    lines.append(f"content: {manifest.content_hash()[:16]}")
    return "\n".join(lines)


def _locations(sources: tuple[str, ...]) -> dict[str, str]:
    """Parse ``NAME=LOCATION`` pairs into a dictionary."""
    locations: dict[str, str] = {}
    for source in sources:
        name, separator, location = source.partition("=")
        if not separator or not location:
            raise DataError(f"--source {source} is not NAME=LOCATION: for example --source news=news.jsonl")
        if name in locations:
            raise DataError(f"--source names the domain {name!r} twice: put its files into one folder")
        locations[name] = location
    return locations
