"""Make a corpus's tokenizer: train SentencePiece on training text, or read GPT-2's files.

Guarantee: no validation text is seen, and the same text gives the same model file on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from unipool_dist.base.printable import printable
from unipool_dist.base.progress_bars import Progress
from unipool_dist.base.reading import read_bytes
from unipool_dist.data.corpus_manifest import TokenizerRecord, combined_hash, file_sha256
from unipool_dist.data.given_tokenizer import GivenTokenizer
from unipool_dist.data.spool import Spool
from unipool_dist.data.tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_FILES, TokenizerKind, load_tokenizer
from unipool_dist.errors import DataError

SAMPLE_BYTES = 12_000_000
"""Training text shown to the tokenizer, shared equally by the domains; more costs time and changes few merges."""
MAX_LINE_BYTES = 4192  # SentencePiece skips longer ones


def train_sentencepiece(spools: Sequence[Spool], vocab_size: int, directory: Path, progress: Progress) -> None:
    """Write ``tokenizer.model``: BPE with ``vocab_size`` pieces, byte fallback, text kept as it is.

    Raises:
        DataError: the text is too little, or has too many characters, for ``vocab_size``.
    """
    import sentencepiece

    path = directory / TOKENIZER_FILES["sentencepiece"][0]
    sample = progress.over(_sample_lines(spools), "train tokenizer", unit=" lines")
    with path.open("wb") as model:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=sample,
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                byte_fallback=True,
                character_coverage=0.9995,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,  # runs of spaces: code is indented
                split_digits=True,
                unk_id=0,
                eos_id=1,
                eos_piece="<eod>",
                bos_id=-1,
                pad_id=-1,
                max_sentence_length=MAX_LINE_BYTES,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise DataError(
                f"no tokenizer with vocab_size={vocab_size} can be trained on this text; {_limit(str(error))}: change "
                f"--vocab-size or add text"
            ) from None


def _limit(error: str) -> str:
    """Return what SentencePiece's ``error`` says about possible sizes."""
    if most := re.search(r"too high.*value <= (\d+)", error, re.S):
        return f"this text allows at most {most[1]}"
    if least := re.search(r"\d+ vs (\d+)", error):
        return f"its characters and the 256 bytes need at least {least[1]}"
    return printable(error.splitlines()[-1] if error else "it has too few words")


def _sample_lines(spools: Sequence[Spool]) -> Iterator[str]:
    """Yield lines of training documents in the order of their hash, an equal share of bytes for each domain."""
    for spool in spools:
        for text in spool.sample(SAMPLE_BYTES // len(spools)):
            for line in text.split("\n"):
                # A quarter of the limit, as a character has up to four bytes; cut lines still show their pieces.
                yield from (line[i : i + MAX_LINE_BYTES // 4] for i in range(0, len(line), MAX_LINE_BYTES // 4))


def gpt2_files(vocab: Path, merges: Path) -> GivenTokenizer:
    """Read GPT-2's files, whatever they are called.

    Raises:
        DataError: one of them is missing or cannot be read.
    """
    files = {}
    for source, name in zip((vocab, merges), TOKENIZER_FILES["gpt2"], strict=True):
        if not source.is_file():
            raise DataError(
                f"GPT-2 file {source} does not exist: give --gpt2-vocab encoder.json --gpt2-merges vocab.bpe"
            )
        try:
            files[name] = read_bytes(source, max_bytes=MAX_TOKENIZER_BYTES)
        except (OSError, ValueError) as error:
            raise DataError(f"GPT-2 file {source} cannot be read: {error}") from None
    return GivenTokenizer("gpt2", files)


def tokenizer_record(kind: TokenizerKind, directory: Path) -> TokenizerRecord:
    """Return the record of the tokenizer whose files are in ``directory``."""
    sha256 = combined_hash({name: file_sha256(directory / name) for name in TOKENIZER_FILES[kind]})
    tokenizer = load_tokenizer(kind, directory, sha256)
    return TokenizerRecord(
        kind=kind,
        vocab_size=tokenizer.vocab_size,
        eod=tokenizer.eod,
        sha256=sha256,
        special_tokens=tokenizer.special_tokens,
    )
