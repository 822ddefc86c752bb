"""SentencePiece models: those trained by ``data prepare``, and any other, unigram or BPE."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipool_dist.base.reading import read_bytes
from unipool_dist.data.tokenizer import MAX_TOKENIZER_BYTES, NO_PAD
from unipool_dist.errors import DataError


class SentencePieceTokenizer:
    """A SentencePiece model whose control symbol for the end of a sequence ends documents.

    A model with byte fallback, such as those trained here, turns text outside its vocabulary into bytes, so that
    nothing is unknown. Not kept by a round trip: U+2581, which SentencePiece uses for the space, and what the model's
    own normalization changes.

    Raises:
        DataError: the model cannot be read, or has no such symbol.
    """

    pad = NO_PAD

    def __init__(self, model: Path, *, sha256: str) -> None:
        import sentencepiece

        try:
            proto = read_bytes(model, max_bytes=MAX_TOKENIZER_BYTES)
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"cannot read the tokenizer {model}: {error}; prepare the corpus again") from None
        self.vocab_size: int = self._processor.vocab_size()
        self.eod: int = self._processor.eos_id()
        if self.eod < 0:
            raise DataError(f"the tokenizer {model} has no symbol that ends a document: prepare the corpus again")
        marks = (i for i in range(self.vocab_size) if self._processor.is_control(i) or self._processor.is_unknown(i))
        self.special_tokens: dict[str, int] = {self._processor.id_to_piece(i): i for i in marks}
        self.unique_identifiers: OrderedDict[str, Any] = OrderedDict([("class", "sentencepiece"), ("sha256", sha256)])

    def encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text, out_type=int))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return list(self._processor.encode(list(texts), out_type=int))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.decode([int(i) for i in ids if i != self.eod]))


def with_end(proto: bytes, eod_token: str | None) -> bytes:
    """Return a SentencePiece model in which a control symbol ends a sequence: its own, or ``eod_token``.

    The model is unchanged if it has that symbol. Else ``eod_token`` is marked as it, so that no text encodes to it any
    more; its id and every other piece stay as they are.

    Raises:
        ValueError: it is not a SentencePiece model, has no such symbol and none is named, or has no piece
            ``eod_token``; the message names the way out.
    """
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise ValueError(f"it is not a SentencePiece model ({error})") from None
    own = processor.eos_id()
    if own >= 0 and eod_token in (None, processor.id_to_piece(own)):
        return proto
    if eod_token is None:
        raise ValueError("it has no symbol for the end of a sequence: name the piece that ends documents: --eod-token")
    eod = processor.piece_to_id(eod_token)
    if processor.is_unknown(eod):
        raise ValueError(f"it has no piece --eod-token {eod_token!r}: name one of its pieces")
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(proto)
    model.pieces[eod].type = model.SentencePiece.CONTROL
    model.trainer_spec.eos_piece, model.trainer_spec.eos_id = eod_token, eod
    return bytes(model.SerializeToString(deterministic=True))
