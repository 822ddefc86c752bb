"""From tokens that come one by one to text: characters as soon as they are complete, up to a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from unipool_dist.data import Tokenizer


class TextStream:
    """The text that follows a prompt, piece by piece.

    It ends before the first of the ``stops`` that is complete in it, wherever the borders of tokens are. What may be
    the beginning of one is held back until it is known. The prompt is not searched.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._tokens = tokenizer, list(prompt)
        self._done = tokenizer.decode(self._tokens)
        self._stops, self._held = [stop for stop in stops if stop], ""
        self.has_stopped = False

    def push(self, token: int) -> str:
        """Return what ``token`` adds to the text."""
        self._tokens.append(token)
        now = self._tokenizer.decode(self._tokens)
        if now.endswith("\ufffd"):  # bytes of a character are still to come, or it is invalid
            return ""
        return self._released(now)

    def finish(self) -> str:
        """Return what is left, when no token comes any more; nothing after a stop string."""
        piece = self._released(self._tokenizer.decode(self._tokens))
        rest, self._held = ("" if self.has_stopped else self._held), ""
        return piece + rest

    def _released(self, now: str) -> str:
        """Return what is certain, when the text of all tokens is ``now``."""
        if self.has_stopped:
            return ""
        text = self._held + now[len(self._done) :]
        self._done = now
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:  # the first that ends, as if characters came one by one
            self.has_stopped, self._held = True, ""
            return text[: min(found)[1]]
        certain = len(text) - _unfinished(text, self._stops)
        self._held = text[certain:]
        return text[:certain]


def as_text(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """Yield what each of ``tokens`` adds to the text of ``prompt``, as soon as its characters are complete."""
    stream = TextStream(tokenizer, prompt)
    for token in tokens:
        if piece := stream.push(token):
            yield piece
    yield stream.finish()


def _unfinished(text: str, stops: Iterable[str]) -> int:
    """Return how many characters at the end of ``text`` may be the beginning of a stop string."""
    return max(
        (size for stop in stops for size in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:size])),
        default=0,
    )
