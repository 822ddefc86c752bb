"""Tokenizers of every kind, trained in a moment on invented words, and texts with odd characters."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.data.conftest import invented_texts

MARKS = ["<unk>", "<s>", "</s>"]
_ODD = [
    *(
        "ä",
        "e\u0301",
        "\ufb01",
        "你好",
        "한국",
        "שלום",
        "\u0627",
        "🙂",
        "👩\u200d👩\u200d👧",
        "\u200b",
        "\u2581",
        "\x00",
    ),
    *("\x07", "\t", "\n\n", "   ", "\u00a0", "\ufeff", "\U0010ffff", "\ue000", "\u202e", "½", "\uff11\uff12", "İ", "ß"),
    *("\u017f", "\r", "<", ">", "|", "]"),
]


def odd_texts(seed: int, count: int) -> list[str]:
    """Texts of words and odd characters in any order; none spells a special token."""
    draw = random.Random(seed)
    words = [word for text in invented_texts(seed, 3) for word in text.split()]
    pieces = [*_ODD, *words, *(f" {word} " for word in words), "7", "Word"]
    return ["".join(draw.choices(pieces, k=draw.randint(0, 40))) for _ in range(count)]


def byte_level_bpe(path: Path) -> Path:
    """GPT-2's kind, with the end of text in the vocabulary."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    _train(made, trainers.BpeTrainer, special_tokens=["<|pad|>", "<|endoftext|>"], initial_alphabet=_bytes())
    return _saved(made, path)


def split_bpe(path: Path) -> Path:
    """Llama-3's kind: an expression splits, whole words are looked up, special tokens come after the vocabulary."""
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}|\s+|[^\s\p{N}]+"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    _train(made, trainers.BpeTrainer, initial_alphabet=_bytes())
    made.add_special_tokens(["<|begin|>", "<|end_of_text|>", "<|reserved|>"])
    made.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", made.token_to_id("<|begin|>"))]
    )
    made.enable_truncation(4)
    made.enable_padding(length=4)
    return _saved(made, path)


def unigram(path: Path) -> Path:
    """T5's kind: the end of a sequence is a piece that a text can spell."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    _train(made, trainers.UnigramTrainer, special_tokens=MARKS, unk_token="<unk>")
    return _saved(made, path)


def wordpiece(path: Path) -> Path:
    """BERT's kind, whose ``tokenizer_config.json`` names the end."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    _train(made, trainers.WordPieceTrainer, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    (path.parent / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "[SEP]"}}))
    return _saved(made, path)


def sentencepiece_model(path: Path, **options: Any) -> Path:
    """A unigram model with the normalization of T5, or one with other ``options``."""
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_lines()),
            model_writer=file,
            minloglevel=2,
            num_threads=1,
            **{"vocab_size": 150} | options,
        )
    return path


TOKENIZER_JSONS: dict[str, Callable[[Path], Path]] = {
    "byte-level BPE": byte_level_bpe,
    "split BPE": split_bpe,
    "unigram": unigram,
    "WordPiece": wordpiece,
}


def _lines() -> list[str]:
    return [line for text in invented_texts(5, 60) for line in text.splitlines()]


def _bytes() -> list[str]:
    return list(pre_tokenizers.ByteLevel.alphabet())


def _train(made: Any, trainer: Any, **options: Any) -> None:
    made.train_from_iterator(_lines(), trainer(vocab_size=400, show_progress=False, **options))


def _saved(made: Any, path: Path) -> Path:
    made.save(str(path))
    return path
