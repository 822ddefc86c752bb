"""``eval``: what it prints are the losses of training, over as many sequences as asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.support.using import complete, refused, validation_of_training
from unipool_dist.data import Corpus
from unipool_dist.inference.validation import Loss, together


def test_numbers_over_several_texts_are_those_of_their_union() -> None:
    both = together([Loss(100, 2.0, 400.0), Loss(300, 3.0, 600.0)])
    assert (both.tokens, both.nats_per_token, both.num_bytes) == (400, 2.75, 1000.0)
    assert both.perplexity == math.exp(2.75)
    assert both.bits_per_byte == pytest.approx(400 * 2.75 / math.log(2) / 1000)


def test_the_command_prints_what_training_recorded(small_run: Path) -> None:
    said, _ = complete("eval", small_run, "--json", "--nproc=2", "parallel.pp=2")
    document, recorded = json.loads(said), validation_of_training(small_run)
    assert (document["step"], document["tokens"]) == (60, 60 * 8 * 32)
    assert document["domains"].keys() == recorded["validation"].keys() == {"prose", "sums"}
    for name, found in document["domains"].items():
        assert found["tokens"] == 6 * 32
        assert found["loss"] == pytest.approx(recorded["validation"][name], rel=1e-5)
        assert found["bits_per_byte"] == pytest.approx(recorded["bits_per_byte"][name], rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    losses = [found["loss"] for found in document["domains"].values()]
    assert document["all"]["loss"] == pytest.approx(sum(losses) / 2), "equally many tokens"
    assert document["tasks"] == {}


def test_all_sequences_are_the_whole_validation_text(small_run: Path, tiny_corpus: Path) -> None:
    said, _ = complete("eval", small_run, "--sequences=all")
    lines = {line.split()[0]: line.split() for line in said.splitlines()[2:]}
    domains = Corpus.open(tiny_corpus).domains
    for name, domain in domains.items():
        assert lines[name][1] == f"{domain.validation_tokens - 1:,}", "the first token is not predicted"
    assert lines["all"][1] == f"{sum(domain.validation_tokens - 1 for domain in domains.values()):,}"


@pytest.mark.parametrize("value", ["0", "-3", "some", "1.5"])
def test_a_number_of_sequences_that_is_none_is_refused(value: str, small_run: Path) -> None:
    assert "is neither a number from 1 to 999999999 nor `all`" in refused("eval", small_run, f"--sequences={value}")


def test_any_other_text_is_evaluated_with_the_runs_tokenizer(
    small_run: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """The corpus's own validation text, given as a file, has the losses that it has in the corpus; nothing is kept."""
    corpus = Corpus.open(tiny_corpus)
    stored = np.fromfile(tiny_corpus / "prose.validation.bin", np.uint16)
    documents = np.split(stored, np.flatnonzero(stored == corpus.tokenizer.eod) + 1)[:-1]
    texts = [corpus.tokenizer.decode(ids.tolist()) for ids in documents]
    file = tmp_path / "b [1].jsonl"
    file.write_text("".join(json.dumps({"body": f" {text}\n"}) + "\n" for text in texts) + '{"body": null}\n')
    before = sorted(tmp_path.rglob("*")), sorted(small_run.rglob("*")), sorted(tiny_corpus.rglob("*"))

    def losses(*options: str) -> dict[str, dict[str, float]]:
        said, noted = complete("eval", small_run, "--json", *options)
        assert ("note: mine: 1 rows passed over: no text" in noted) == (given[0] in options)
        return dict(json.loads(said)["domains"])

    given = ("--source", f"mine={file}", "--text-field=body")
    expected = losses("--sequences=all")["prose"]
    for options in ((), ("--nproc=2", "parallel.pp=2")):
        found = losses(*given, *options)
        assert found.keys() == {"mine"}
        assert found["mine"] == pytest.approx(expected, rel=1e-5)
    assert losses(*given, "--sequences=3")["mine"]["tokens"] == 3 * 32
    assert before == (sorted(tmp_path.rglob("*")), sorted(small_run.rglob("*")), sorted(tiny_corpus.rglob("*")))


def test_a_text_that_is_not_there_is_one_error(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n')
    for path, message in (("nowhere.jsonl", "mine=nowhere.jsonl"), (tmp_path / "empty.jsonl", "no text to evaluate")):
        assert message in complete("eval", small_run, f"--source=mine={path}", status=1)[1]
