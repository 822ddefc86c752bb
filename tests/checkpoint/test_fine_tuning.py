"""A run that begins with the weights of another, on another corpus with its tokenizer and on another layout."""

from __future__ import annotations

import json
from pathlib import Path

from tests.checkpoint.command_line import document, fail, same_bits, step_folder, succeed, tensors_of
from tests.support.using import complete
from unipool_dist.config import load_config


def test_a_run_begins_with_the_weights_of_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    steps = [int(folder.name.removeprefix("step-")) for folder in sorted((trained / "checkpoints").glob("step-*"))]
    for source, options, step in (
        (trained, (), steps[-1]),
        (trained, ("--step", steps[0]), steps[0]),
        (step_folder(trained, steps[0]), (), steps[0]),
    ):
        run = tmp_path / f"run {len(list(tmp_path.iterdir()))}"
        done = document("import", source, run, *options)
        kept = tensors_of(step_folder(trained, step), tmp_path)
        expected = {name: tensor for name, tensor in kept.items() if name.startswith("master/")}
        assert 0 < len(expected) < len(kept)
        assert same_bits(tensors_of(step_folder(run, 0), tmp_path), expected), "masters, and no optimizer states"
        assert done["parameters"] == sum(tensor.numel() for tensor in expected.values())
        assert document("verify", run)["ok"]


def test_an_imported_run_leaves_the_layout_open(trained: Path, tmp_path: Path) -> None:
    succeed("import", trained, tmp_path / "run")
    config, before = load_config(tmp_path / "run" / "config.yaml"), load_config(trained / "config.yaml")
    assert (config.parallel.pp, config.parallel.dp, config.parallel.tp) == (1, "auto", 1)
    assert (config.pool.parallel_size, config.pool.stages_per_group) == (None, None)
    assert config.model == before.model
    assert config.train == before.train
    succeed("export", trained, tmp_path / "export")
    assert fail("import", tmp_path / "export", tmp_path / "another", "--step", 4) == "SystemExit: 2"


def test_a_run_is_fine_tuned_on_another_corpus_in_three_commands(small_run: Path, tmp_path: Path) -> None:
    text = tmp_path / "law.txt"
    text.write_text("\n\n".join(f"section {i} of the law says that number {i * 7} is due" for i in range(400)))
    run, corpus = tmp_path / "run", tmp_path / "corpus"
    tokenizer = load_config(small_run / "config.yaml").data.path
    complete("data", "prepare", corpus, f"--source=law={text}", f"--tokenizer={tokenizer}")
    complete("checkpoint", "import", small_run, run)
    changes = ("train.steps=12", "train.eval_interval=12", "optimizer.lr=0.003", "parallel.pp=2")
    said, _ = complete("train", run / "config.yaml", "--resume=must", "--nproc=2", f"data.path={corpus}", *changes)
    assert f"resumed after step 0 of 12 from {run}" in said
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before = json.loads(complete("eval", small_run, f"data.path={corpus}", "--json")[0])["domains"]["law"]["loss"]
    (after,) = (record["validation"]["law"] for record in records if "validation" in record)
    first = next(record["loss"] for record in records if "loss" in record)
    assert after < 0.8 * before
    assert after < first < before + 0.5, "it begins where the other run was, not with new weights"
