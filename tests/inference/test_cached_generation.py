"""Keys and values that are kept, and prompts that are continued together, change no text; nor does the layout."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.using import LAYOUTS, with_run
from tests.support.workers import Workers, free_port
from unipool_dist.api import Run
from unipool_dist.data.tokenizer_alone import TokenizerAlone
from unipool_dist.errors import DataError
from unipool_dist.inference import decoding
from unipool_dist.inference.generation import continuation, generated
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.sampler import Sampling

GREEDY = Sampling(temperature=0.0)
DRAWN = Sampling(temperature=0.9, top_p=0.9, top_k=20, seed=5)
PROMPTS = ["the quick brown fox", "a", "", "the red dog jumps near the lazy river and the old house" * 2, "12 + 5"]
"""Of several lengths, one longer than the model's sequences of 32 tokens."""
TOKENS = 40  # so that every text becomes longer than these


def together(run: OpenedRun, sampling: Sampling, **options: Any) -> list[str]:
    follow = [""] * len(PROMPTS)
    for piece in generated(run, PROMPTS, TOKENS, sampling, **options):
        follow[piece.prompt] += piece.text
    return follow


def texts(run: OpenedRun) -> dict[str, list[str]]:
    stop = [together(run, GREEDY)[0][5:8]]
    return {
        "greedy": together(run, GREEDY),
        "drawn": together(run, DRAWN),
        "up to a stop string": [*stop, *together(run, GREEDY, stops=stop)],
    }


def one_by_one(run: OpenedRun) -> dict[str, list[str]]:
    """The same, without a cache, from each prompt alone."""
    tokenizer = run.corpus.tokenizer

    def alone(number: int, sampling: Sampling) -> str:
        prompt = tokenizer.encode(PROMPTS[number])
        seeded = Sampling(sampling.temperature, sampling.top_p, sampling.seed + number, sampling.top_k)
        follow = list(continuation(run, prompt, TOKENS, seeded, cached=False))
        return tokenizer.decode([*prompt, *follow])[len(tokenizer.decode(prompt)) :]

    greedy, drawn = ([alone(number, sampling) for number in range(len(PROMPTS))] for sampling in (GREEDY, DRAWN))
    stop = greedy[0][5:8]
    cut = [text.split(stop)[0] for text in greedy]
    return {"greedy": greedy, "drawn": drawn, "up to a stop string": [stop, *cut]}


@lru_cache
def reference(workers: Workers, run_dir: Path) -> dict[str, list[str]]:
    (found,) = workers.run(with_run, 1, run_dir, (), 0, one_by_one)
    assert isinstance(found, dict), found
    return found


@pytest.mark.parametrize("layout", ["one process", "pp2", "dp2", "tp2", "pp2-tp2"])
def test_texts_are_those_of_one_process_without_a_cache(workers: Workers, small_run: Path, layout: str) -> None:
    world_size, overrides = {"one process": (1, ()), **LAYOUTS}[layout]
    wanted = reference(workers, small_run)
    for found in workers.run(with_run, world_size, small_run, overrides, free_port(), texts):
        assert found == wanted


def test_the_comparison_is_worth_something(workers: Workers, small_run: Path) -> None:
    wanted = reference(workers, small_run)
    assert len(set(wanted["greedy"])) == len(PROMPTS) and wanted["drawn"] != wanted["greedy"]
    stop, *cut = wanted["up to a stop string"]
    assert len(stop) == 3 and 0 < len(cut[0]) < len(wanted["greedy"][0])


def test_python_gives_what_the_command_computes(workers: Workers, small_run: Path) -> None:
    (found,) = workers.run(with_run, 1, small_run, (), 0, _by_python)
    wanted = reference(workers, small_run)
    assert found == (wanted["greedy"][0], wanted["drawn"], ["", ""])


def _by_python(opened: OpenedRun) -> Any:
    run = Run(opened)
    greedy = run.generate(PROMPTS[0], TOKENS, temperature=0)
    return greedy, run.generate_batch(PROMPTS, TOKENS, DRAWN), run.generate_batch(PROMPTS[:2], 0)


def test_passes_of_a_few_rows_change_nothing(workers: Workers, small_run: Path) -> None:
    (found,) = workers.run(with_run, 1, small_run, (), 0, _in_small_parts)
    assert found == reference(workers, small_run)["greedy"]


def _in_small_parts(run: OpenedRun) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding.Decoder, "_tokens_at_once", 3)
        return together(run, GREEDY)


def test_the_tokenizer_is_enough(workers: Workers, small_run: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    arguments = (small_run, (f"data.path={tmp_path}/gone",), 0, together, GREEDY)
    (refused,) = workers.run(with_run, 1, *arguments)
    assert "--tokenizer PATH" in refused
    (found,) = workers.run(_with_tokenizer, 1, tiny_corpus, *arguments)
    assert found == reference(workers, small_run)["greedy"]
    (tmp_path / "tokenizer.model").write_bytes((tiny_corpus / "tokenizer.model").read_bytes())
    (notes,) = workers.run(_with_tokenizer, 1, tmp_path / "tokenizer.model", *arguments[:3], _notes)
    assert notes == ()


def test_another_tokenizer_is_refused(tiny_corpus: Path) -> None:
    found = TokenizerAlone.open(tiny_corpus)
    found.check(found.tokenizer_hash, found.vocab_size)
    found.check(None, found.vocab_size + 64)
    with pytest.raises(DataError, match="another one than the run's"):
        found.check("0" * 64, found.vocab_size)
    with pytest.raises(DataError, match="has 320 tokens and the model 256"):
        found.check(None, 256)


def _with_tokenizer(environment: Any, tokenizer: Path, *arguments: Any) -> Any:
    return with_run(environment, *arguments, tokenizer=tokenizer)


def _notes(run: OpenedRun) -> tuple[str, ...]:
    with pytest.raises(DataError, match="instead of its corpus"):
        _ = run.corpus
    return run.notes
