"""Which checkpoint is opened, under which layout, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint.damage import adapt_manifest, copy_run, flip_bit, replace_file
from tests.support.runs import write_sources
from tests.support.using import identity, refused, with_run
from tests.support.workers import Workers, free_port
from unipool_dist.config import load_config
from unipool_dist.data.prepare import PrepareOptions, prepare
from unipool_dist.errors import ConfigError
from unipool_dist.inference.layout import inference_plan
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.run.lock import RunLock

TOKENS_PER_STEP = 8 * 32


def open_it(workers: Workers, run_dir: Path, *overrides: str, step: int | None = None, ranks: int = 1) -> Any:
    """What rank 0 opens, or its error."""
    arguments = (run_dir, overrides, free_port(), identity)
    return workers.run(_opened, ranks, step, *arguments)[0]


def _opened(environment: Any, step: int | None, *arguments: Any) -> Any:
    return with_run(environment, *arguments, step=step)


def test_the_newest_checkpoint_or_the_one_asked_for(workers: Workers, small_run: Path) -> None:
    assert open_it(workers, small_run) == (60, 60 * TOKENS_PER_STEP)
    assert open_it(workers, small_run, step=40) == (40, 40 * TOKENS_PER_STEP)
    assert "has no checkpoint of step 50; there are: 40, 60" in open_it(workers, small_run, step=50)


def test_a_run_that_is_being_trained_can_be_used(workers: Workers, small_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_run.rglob("*")}
    with RunLock(small_run):
        assert open_it(workers, small_run)[0] == 60
    assert {path for path in small_run.rglob("*") if path.stat().st_mtime_ns != before.get(path)} <= {
        small_run / ".lock"
    }


def test_a_damaged_checkpoint_is_passed_over_but_never_used(workers: Workers, small_run: Path, tmp_path: Path) -> None:
    directory = copy_run(small_run, tmp_path / "run")
    flip_bit(directory.folder(60) / "__0_0.distcp", 100_000)
    run, notes = workers.run(_opened, 2, None, tmp_path / "run", (), free_port(), _identity_and_notes)[0]
    assert run == (40, 40 * TOKENS_PER_STEP)
    assert len(notes) == 2 and notes[0].startswith("warning: the checkpoint of step 60 is damaged and passed over: ")
    assert "DamagedError: the checkpoint of step 60 is damaged" in open_it(workers, tmp_path / "run", step=60)


def test_a_model_that_is_not_trained_to_the_end_is_said_to_be_so(workers: Workers, small_run: Path) -> None:
    ((_, notes),) = workers.run(_opened, 1, 40, small_run, (), 0, _identity_and_notes)
    assert notes == ("note: the model is that of step 40 of 60; it is not trained to the end",)
    ((_, notes),) = workers.run(_opened, 1, None, small_run, (), 0, _identity_and_notes)
    assert notes == ()


def _identity_and_notes(run: OpenedRun) -> tuple[tuple[int, int], tuple[str, ...]]:
    return identity(run), run.notes


def test_bf16_weights_are_the_masters_rounded(workers: Workers, small_run: Path) -> None:
    (exact,) = workers.run(_opened, 1, None, small_run, (), 0, _weights)
    (rounded,) = workers.run(_opened, 1, None, small_run, ("train.dtype=bf16",), 0, _weights)
    assert exact.keys() == rounded.keys() and len(exact) > 10
    for name, weight in exact.items():
        wanted = weight if ".router." in name else weight.bfloat16().float()
        assert torch.equal(rounded[name], wanted), name
    assert not torch.equal(rounded["gate_up"], exact["gate_up"])


def _weights(run: OpenedRun) -> dict[str, torch.Tensor]:
    named = [*run.model.named_dense_parameters(), *run.model.named_expert_parameters()]
    return {name: parameter.detach().float() for name, parameter in named}


def test_by_default_all_processes_are_replicas_that_own_the_pool_together(small_run: Path) -> None:
    config = inference_plan(small_run, (), 4)
    assert (config.parallel.pp, config.parallel.dp, config.parallel.tp, config.pool.parallel_size) == (1, 4, 1, 4)
    config = inference_plan(small_run, ("parallel.pp=2", "pool.parallel_size=2"), 4)
    assert (config.parallel.pp, config.parallel.dp, config.pool.parallel_size) == (2, 2, 2)
    assert inference_plan(small_run, (), 1).config.model == load_config(small_run / "config.yaml").model


def test_no_number_of_processes_is_refused_for_its_batch(small_run: Path) -> None:
    """Training would refuse three replicas: its 8 sequences do not divide."""
    assert inference_plan(small_run, ("pool.parallel_size=1",), 3).parallel.dp == 3


@pytest.mark.parametrize("command", [("eval",), ("generate", "--prompt=x"), ("probe",)])
def test_what_is_no_run_is_refused(command: tuple[str, ...], small_run: Path, tmp_path: Path) -> None:
    missing, empty, untrained = tmp_path / "missing", tmp_path / "empty", tmp_path / "untrained"
    empty.mkdir()
    untrained.mkdir()
    shutil.copy(small_run / "config.yaml", untrained)
    assert refused(*command, missing) == f"{missing} is not a run: it is not a directory; give the run.dir of a run"
    assert refused(*command, empty) == f"{empty} is not a run: it has no config.yaml; give the run.dir of a run"
    assert f"{untrained} has no checkpoint yet" in refused(*command, untrained)
    assert "checkpoint.interval=40" in refused(*command, untrained, "--nproc", 2), "before processes are started"


def test_a_run_of_another_version_is_refused(small_run: Path, tmp_path: Path) -> None:
    text = (small_run / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("model:", "model:\n  flux_capacitor: 3"))
    with pytest.raises(ConfigError, match=r"flux_capacitor: no such field(.|\n)*another version of unipool_dist"):
        inference_plan(tmp_path, (), 1)


def test_a_checkpoint_of_another_version_is_refused(workers: Workers, small_run: Path, tmp_path: Path) -> None:
    folder = copy_run(small_run, tmp_path / "run").folder(60)
    state = json.loads((folder / "state.json").read_text())
    replace_file(folder / "state.json", json.dumps({**state, "format_version": 99}).encode())
    adapt_manifest(folder)
    assert "format_version=99, this unipool_dist reads up to 1; install the version" in open_it(
        workers, tmp_path / "run"
    )


def test_code_that_only_the_run_names_is_not_imported(workers: Workers, small_run: Path, tmp_path: Path) -> None:
    """A run directory may be somebody else's, and so may a module of that name in the current directory."""
    copy_run(small_run, tmp_path / "run")
    text = (small_run / "config.yaml").read_text()
    assert "router: norm" in text
    replace_file(tmp_path / "run" / "config.yaml", text.replace("router: norm", "router: evil:Router").encode())
    error = open_it(workers, tmp_path / "run")
    assert "pool.router=evil:Router names code" in error and "--trust evil:Router" in error


def test_a_checkpoint_of_another_model_is_refused(workers: Workers, small_run: Path, tmp_path: Path) -> None:
    copy_run(small_run, tmp_path / "run")
    text = (small_run / "config.yaml").read_text()
    replace_file(tmp_path / "run" / "config.yaml", text.replace("top_k: 2", "top_k: 1").encode())
    error = open_it(workers, tmp_path / "run")
    assert "is of another model than the run's config.yaml:\n  pool.top_k: 2 in the checkpoint, 1 now" in error


@pytest.mark.parametrize("override", ["pool.top_k=1", "model.num_layers=4", "train.seed=3", "run.dir=x"])
def test_the_model_cannot_be_changed(override: str, small_run: Path) -> None:
    error = refused("eval", small_run, override)
    assert error.startswith(f"{override}: cannot be set for a model that is trained; what can be: pool.parallel_size, ")


def test_an_impossible_layout_is_refused_before_processes_are_started(small_run: Path) -> None:
    assert "parallel.pp=4 is more than model.num_layers=2" in refused(
        "eval", small_run, "parallel.pp=4", "pool.parallel_size=4", "--nproc", 4
    )


def test_a_corpus_that_is_gone_or_has_another_tokenizer(workers: Workers, small_run: Path, tmp_path: Path) -> None:
    error = open_it(workers, small_run, f"data.path={tmp_path}")
    assert "no prepared corpus at" in error and "say where: data.path=DIRECTORY" in error
    other = tmp_path / "other"
    sources = {name: str(path) for name, path in write_sources(tmp_path).items()}
    prepare(other, PrepareOptions(sources=sources, vocab_size=330))
    assert "has another tokenizer than the run's" in open_it(workers, small_run, f"data.path={other}")


def test_another_corpus_with_the_same_tokenizer_is_used_and_said(
    workers: Workers, small_run: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_corpus, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["files"]["prose.train.bin"]["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    ((_, notes),) = workers.run(_opened, 1, None, small_run, (f"data.path={other}",), 0, _identity_and_notes)
    assert notes == (f"note: the corpus at {other} is not the one that the run was trained on",)
