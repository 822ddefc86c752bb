"""Continue texts, token by token, on any layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from unipool_dist.errors import DataError
from unipool_dist.inference.decoding import Decoder, Text
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.sampler import Sampler, Sampling
from unipool_dist.inference.text_stream import TextStream

AT_ONCE = 32
"""Prompts that are continued together: their keys and values are in memory at the same time."""


@dataclass(frozen=True)
class Piece:
    """What was added to the continuation of prompt number ``prompt``: complete characters."""

    prompt: int
    text: str


def generated(
    run: OpenedRun,
    prompts: Sequence[str],
    max_tokens: int,
    sampling: Sampling,
    stops: Sequence[str] = (),
    *,
    cached: bool = True,
) -> Iterator[Piece]:
    """Yield what follows the prompts, as it comes; :data:`AT_ONCE` of them are continued together.

    A continuation ends before the end of the document, before the first of ``stops``, or after ``max_tokens``. What
    follows prompt number i is what follows it alone with ``sampling.seed + i``, up to rounding.

    All ranks iterate in step and get the same pieces. An empty prompt is the beginning of a document.

    Args:
        cached: keep keys and values (:class:`Decoder`, which says how much memory that takes).

    Raises:
        DataError: a prompt is empty, and the model was never trained to begin a document.

    Collectives: for each token those of :meth:`Decoder.draw`.
    """
    tokenizer = run.vocabulary.tokenizer
    encoded = tokenizer.encode_batch(prompts)
    for start in range(0, len(prompts), AT_ONCE):
        texts = [
            _text(run, number, encoded[number], max_tokens, sampling)
            for number in range(start, min(start + AT_ONCE, len(prompts)))
        ]
        streams = {text.number: TextStream(tokenizer, encoded[text.number], stops) for text in texts}
        decoder = Decoder(run, texts, cached=cached)
        while decoder.texts:
            for text, token in _next(run, decoder):
                stream = streams[text.number]
                yield Piece(text.number, stream.push(token))
                if stream.has_stopped and text.left:
                    decoder.end(text)
        yield from (Piece(number, stream.finish()) for number, stream in streams.items())


def continuation(
    run: OpenedRun, prompt: list[int], max_tokens: int, sampling: Sampling, *, cached: bool = True
) -> Iterator[int]:
    """Yield at most ``max_tokens`` tokens that follow ``prompt``, up to the end of the document, which is left out.

    As :func:`generated`, which works with text.
    """
    decoder = Decoder(run, [_text(run, 0, prompt, max_tokens, sampling)], cached=cached)
    while decoder.texts:
        yield from (token for _, token in _next(run, decoder))


def _next(run: OpenedRun, decoder: Decoder) -> list[tuple[Text, int]]:
    """Draw a token for every text, and end those that are complete; return all but the ends of documents."""
    drawn = decoder.draw()
    going = []
    for text, token in drawn:
        ends = token == run.vocabulary.document_end
        text.left = 0 if ends else text.left - 1
        if text.left == 0:
            decoder.end(text)
        if not ends:
            going.append((text, token))
    return going


def _text(run: OpenedRun, number: int, prompt: Sequence[int], max_tokens: int, sampling: Sampling) -> Text:
    if not prompt and run.plan.document_end is not None:
        raise DataError(
            "the prompt is empty: this model was trained with data.reset_at_documents, so that it has not learned what "
            "a document begins with; give the first word or more"
        )
    if run.plan.document_end in prompt:  # what is before it is not seen
        ends = [place for place, token in enumerate(prompt) if token == run.plan.document_end]
        return _text(run, number, prompt[ends[-1] + 1 :], max_tokens, sampling)
    sampler = Sampler(replace(sampling, seed=sampling.seed + number))
    return Text(number, [*prompt] or [run.vocabulary.document_end], max_tokens, sampler)
