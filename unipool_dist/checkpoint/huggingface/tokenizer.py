"""A tokenizer in the form that transformers loads: ``tokenizer.json``, of SentencePiece or of GPT-2's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unipool_dist.base.reading import read_bytes
from unipool_dist.base.writing import replace_text
from unipool_dist.data.tokenizer import TOKENIZER_FILES, Tokenizer, TokenizerKind, load_tokenizer
from unipool_dist.data.tokenizer_kinds.gpt2 import GPT2_EOD
from unipool_dist.errors import DataError

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_CLASS = "PreTrainedTokenizerFast"

_SPACE = "\u2581"  # what SentencePiece writes for a space
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # types of pieces, as sentencepiece_model.proto numbers them
_UNIGRAM, _BPE = 1, 2  # types of models, likewise
_TRIALS: tuple[str, ...] = (
    "",
    "The quick brown fox jumps over 13 lazy dogs.",
    " leading, trailing and   many    spaces  ",
    "def f(x):\n    return x ** 2\t# a comment\r\n\n\n",
    "Zürich, naïve, Ελλάδα, Москва, 東京, עברית, हिन्दी",
    "e\u0301 \ufb01 \u00bd \u2460 \uff21 \u200b \u00a0 \ufeff",
    "\U0001f600\U0001f469\u200d\U0001f4bb \x00\x07\x7f",
    "1234567890 3.14159 1e-5 0xFF",
    "<s></s><unk><pad><eod> <0x41> [INST]",
    "aaaaaaaaaaaaaaaaaaaaaaaa abababababab ------------ ........",
    'https://example.org/a?b=c&d=e#f {"a": [1, 2, null]} \\alpha_{i}^{2}',
)


def write_tokenizer(
    folder: Path, kind: TokenizerKind, sha256: str, sequence_length: int
) -> tuple[Tokenizer, list[str]]:
    """Write the tokenizer in ``folder`` so that transformers loads it; return it, and the names of the files.

    A ``tokenizer.json`` that a corpus was given stays as it is.

    Raises:
        DataError: as of :func:`fast_tokenizer`.
    """
    if kind == "huggingface":
        ours = load_tokenizer(kind, folder, sha256)
    else:
        fast, ours = fast_tokenizer(folder, kind, sha256)
        fast.save(str(folder / TOKENIZER_JSON))
    eod = next(name for name, number in ours.special_tokens.items() if number == ours.eod)
    config = json.dumps(_tokenizer_config(eod, sequence_length), indent=2, ensure_ascii=False)
    replace_text(folder / TOKENIZER_CONFIG, config + "\n")
    return ours, [TOKENIZER_JSON, TOKENIZER_CONFIG]


def fast_tokenizer(folder: Path, kind: TokenizerKind, sha256: str) -> tuple[Any, Tokenizer]:
    """Return a ``tokenizers.Tokenizer`` that does what the tokenizer of SentencePiece or GPT-2 does, and that one.

    Both were tried on texts with whatever is unusual.

    Raises:
        DataError: the package tokenizers is missing, or the tokenizer cannot be expressed so.
    """
    ours = load_tokenizer(kind, folder, sha256)
    try:
        import tokenizers  # noqa: F401  # optional
    except ImportError:
        raise DataError(f"{TOKENIZER_JSON} needs the package 'tokenizers': pip install tokenizers") from None
    files = [folder / name for name in TOKENIZER_FILES[kind]]
    fast = _of_sentencepiece(*files) if kind == "sentencepiece" else _of_gpt2(*files)
    fast.encode_special_tokens = True  # so that none is found in a text
    odd = next((text for text in _TRIALS if fast.encode(text, add_special_tokens=False).ids != ours.encode(text)), None)
    if odd is not None:
        raise DataError(f"the tokenizer in {folder} has no {TOKENIZER_JSON} that gives the same tokens for {odd!r}")
    return fast, ours


def _of_sentencepiece(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

    proto = sentencepiece_model_pb2.ModelProto.FromString(read_bytes(path))
    kind, rules, pieces = proto.trainer_spec.model_type, proto.normalizer_spec, proto.pieces
    model: Any
    unknown = next(number for number, piece in enumerate(pieces) if piece.type == _UNKNOWN)
    if kind == _BPE:
        ids = {piece.piece: number for number, piece in enumerate(pieces)}
        model = models.BPE(ids, _merges(pieces), unk_token=pieces[unknown].piece, fuse_unk=True, byte_fallback=True)
    elif kind == _UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in pieces]
        model = models.Unigram(scores, unk_id=unknown, byte_fallback=proto.trainer_spec.byte_fallback)
    else:
        raise DataError(f"{path} is a SentencePiece model of words or characters, which has no {TOKENIZER_JSON}")
    fast = Tokenizer(model)
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    fast.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    back: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    fast.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if rules.add_dummy_prefix else back)
    control = [piece.piece for piece in pieces if piece.type == _CONTROL]
    fast.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in control])
    own = [piece.piece for piece in pieces if piece.type == _USER_DEFINED]
    fast.add_tokens([AddedToken(piece, normalized=False) for piece in own])
    return fast


def _merges(pieces: Any) -> list[tuple[str, str]]:
    """Return the pairs whose union is a piece, the best piece first: SentencePiece keeps pieces and no pairs."""
    ids = {piece.piece: number for number, piece in enumerate(pieces) if piece.type in (_NORMAL, _USER_DEFINED)}
    found = []
    for piece, number in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-pieces[number].score, ids[left], ids[right], (left, right)))
    return [pair for *_, pair in sorted(found)]


def _of_gpt2(vocab: Path, merges: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    fast = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([GPT2_EOD])
    return fast


def _tokenizer_config(eod: str, sequence_length: int) -> Mapping[str, Any]:
    """Return the content of ``tokenizer_config.json``.

    As in training, nothing is added to a text, and no text encodes to the token that ends documents.
    """
    return {
        "tokenizer_class": TOKENIZER_CLASS,
        "bos_token": eod,
        "eos_token": eod,
        "pad_token": eod,
        "add_bos_token": False,
        "add_eos_token": False,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_max_length": sequence_length,
    }
