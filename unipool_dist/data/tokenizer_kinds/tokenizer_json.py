"""A ``tokenizer.json`` as data: its vocabulary and special tokens, and which token ends a document.

It holds no code: the package ``tokenizers`` knows a closed list of models and steps, and this reads it as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipool_dist.base.reading import parse_json, read_bytes
from unipool_dist.data.tokenizer import MAX_TOKENIZER_BYTES

KNOWN_ENDS = (
    *("<|endoftext|>", "<|end_of_text|>", "<|end▁of▁sentence|>", "<|eos|>", "<|eod|>"),
    *("</s>", "<eos>", "<EOS>", "[EOS]", "<eod>"),
)
"""Names by which a token is the end of a text if no file says so and the tokenizer has just one of them."""
_MAX_CONFIG_BYTES = 16 << 20
_SHOWN = 12


@dataclass(frozen=True)
class TokenizerJson:
    """A parsed ``tokenizer.json``: ``ids`` of all pieces and added tokens, ``special`` of the special ones among these.

    Raises:
        ValueError: it is not one, or its ids contradict each other.
    """

    values: dict[str, Any]
    ids: dict[str, int]
    special: dict[str, int]

    @classmethod
    def parse(cls, data: bytes) -> TokenizerJson:
        """Parse the bytes of a ``tokenizer.json``.

        Raises:
            ValueError: they are anything else.
        """
        values = parse_json(data)
        try:
            vocab = values["model"]["vocab"]
            pairs = vocab.items() if isinstance(vocab, dict) else ((piece, i) for i, (piece, _) in enumerate(vocab))
            ids = {str(piece): _id(i) for piece, i in pairs}
            added = [(str(token["content"]), _id(token["id"]), token["special"]) for token in values["added_tokens"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"it is not a tokenizer.json ({type(error).__name__}: {error})") from None
        for content, i, _ in added:
            if ids.setdefault(content, i) != i:
                raise ValueError(f"the token {content!r} has two ids, {ids[content]} and {i}")
        if not ids:
            raise ValueError("its vocabulary is empty")
        return cls(values, ids, {content: i for content, i, special in added if special})

    @classmethod
    def read(cls, path: Path) -> TokenizerJson:
        """Read the file at ``path``.

        Raises:
            OSError: it is missing or cannot be read.
            ValueError: it is anything else, or too large.
        """
        return cls.parse(read_bytes(path, max_bytes=MAX_TOKENIZER_BYTES))


def _id(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"the id {value!r}")
    return value


def end_of_document(tokenizer: TokenizerJson, folder: Path | None, eod_token: str | None) -> str:
    """Return the token that ends documents.

    It is ``eod_token`` if given, else what the model's files in ``folder`` call the end of a sequence (in this order:
    ``tokenizer_config.json``, ``special_tokens_map.json``, ``generation_config.json``, ``config.json``), else the only
    special token that has one of the names in :data:`KNOWN_ENDS`.

    Raises:
        ValueError: it is not known, or not in the vocabulary; the message names the way out.
    """
    token = eod_token if eod_token is not None else _stated(tokenizer, folder)
    if token is None:
        known = [name for name in KNOWN_ENDS if name in tokenizer.special]
        if len(known) != 1:
            names = ", ".join(sorted(tokenizer.special, key=tokenizer.special.__getitem__)[:_SHOWN]) or "none"
            raise ValueError(
                f"nothing says which token ends a document (its special tokens: {names}): name it with --eod-token"
            )
        token = known[0]
    if token not in tokenizer.ids:
        raise ValueError(f"its vocabulary has no token {token!r} to end documents: name another with --eod-token")
    model = tokenizer.values["model"]
    if token == model.get("unk_token") or tokenizer.ids[token] == model.get("unk_id"):
        raise ValueError(f"the token {token!r} stands for unknown text: name another to end documents with --eod-token")
    return token


def _stated(tokenizer: TokenizerJson, folder: Path | None) -> str | None:
    """Return what the files of a model in ``folder`` call the end of a sequence."""
    if folder is None:
        return None
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _beside(folder / name).get("eos_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            return content
    names = {i: token for token, i in tokenizer.ids.items()}
    for name in ("generation_config.json", "config.json"):
        end = _beside(folder / name).get("eos_token_id")
        if type(end) is int and end in names:  # several ids are ends of turns, too
            return names[end]
    return None


def _beside(path: Path) -> dict[str, Any]:
    """Return the JSON object at ``path``, empty if there is no file.

    Raises:
        ValueError: the file is something else.
    """
    try:
        values = parse_json(read_bytes(path, max_bytes=_MAX_CONFIG_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} next to it cannot be read ({error}): remove it, or use --eod-token") from None
    return values if isinstance(values, dict) else {}


def config_text(eod_token: str) -> str:
    """Return the ``tokenizer_config.json`` that a corpus keeps: in the form of Hugging Face, and only what decides ids.

    So the identity of a tokenizer depends on its file and on the end of documents alone.
    """
    config = {
        "clean_up_tokenization_spaces": False,
        "eos_token": eod_token,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return json.dumps(config, indent=1, ensure_ascii=False) + "\n"
