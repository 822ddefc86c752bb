"""``probe``: what it writes, what it refuses, and two runs side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from tests.support.using import complete, refused
from unipool_dist.config import dump_config, load_config, outline
from unipool_dist.errors import UnipoolError
from unipool_dist.probe.plots import randomized_figure
from unipool_dist.probe.record import Probe, check_comparable, read_probe
from unipool_dist.run.beginning import begin_run_dir

FIGURES = {"randomized.png", "distinct.png", "ownership.png", "affinity.png"}


@pytest.fixture(scope="module")
def probed(small_run: Path, layered_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A run probed against another, and what was said; on copies."""
    folder = tmp_path_factory.mktemp("probed")
    shared = shutil.copytree(small_run, folder / "shared")
    layered = shutil.copytree(layered_run, folder / "layered" / "seed-3")
    complete("probe", layered, "--seeds=1")
    said, _ = complete("probe", shared, "--seeds=2", "--against", layered, "--nproc=2", "parallel.pp=2")
    return shared, layered, said


@pytest.mark.real_programs
def test_everything_is_written(probed: tuple[Path, Path, str]) -> None:
    shared, layered, said = probed
    assert {path.name for path in (layered / "probe").iterdir()} == {"probe.json", *FIGURES}
    assert {path.name for path in (shared / "probe").iterdir()} == {"probe.json", "against-layered-seed-3", *FIGURES}
    assert {path.name for path in (shared / "probe" / "against-layered-seed-3").iterdir()} == FIGURES
    for path in (shared / "probe").rglob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 300 and len(np.unique(np.asarray(image.convert("L")))) > 20, path
        assert str(path) in said


def test_what_is_said_is_what_is_written(probed: tuple[Path, Path, str]) -> None:
    shared, _, said = probed
    found = read_probe(shared)
    assert f"shared, step 60: loss {found.loss:.4f} over 384 tokens of 2 domains" in said
    added = found.randomized["matched"].added_to(found.loss)
    assert f"{added[:, 1].mean():+.4f} ± {added[:, 1].std(ddof=1):.4f}" in said
    (deeper,) = (line for line in said.splitlines() if line.startswith("deeper half"))
    assert deeper.split()[-1] == f"{added[:, 1:].mean():+.4f}"
    assert "loss added ± SD of 2 seeds, of all 16  loss added ± SD of 2 seeds, of the 8 most used" in said
    assert f"distinct experts of a token over 2 layers: {found.distinct[-1]:.1%}" in said


def test_a_run_that_is_not_probed_cannot_be_drawn_beside(small_run: Path, tmp_path: Path) -> None:
    error = refused("probe", small_run, "--against", tmp_path)
    assert f"{tmp_path} has not been probed" in error and f"run `unipool-dist probe {tmp_path}` first" in error


def test_a_dense_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    dense = ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none", "model.vocab_size=512")
    dump_config(outline(load_config(None, dense), 1).config, tmp_path / "config.yaml")
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    for nproc in ((), ("--nproc", 2)):
        assert "pool.router=none: its model is dense, so there is no routing" in refused("probe", tmp_path, *nproc)


def test_a_run_of_one_form_is_drawn_in_the_colour_of_what_it_is_compared_with(probed: tuple[Path, Path, str]) -> None:
    shared, layered, _ = probed
    of_both = _lines(randomized_figure([read_probe(shared), read_probe(layered)]))
    assert [sorted(lines) for lines in of_both] == [
        ["all 16 of the pool", "the 8 that the layer uses most"],
        ["all 4 of the layer"],
    ]
    (alone,) = _lines(randomized_figure([read_probe(layered)]))
    assert of_both[1]["all 4 of the layer"] == of_both[0]["the 8 that the layer uses most"]
    assert alone["all 4 of the layer"] == of_both[0]["all 16 of the pool"]


def _lines(figure: Figure) -> list[dict[str, str]]:
    """By panel, colours by label."""
    return [
        {
            str(each.get_label()): str(each.lines[0].get_color())
            for each in axes.containers
            if isinstance(each, ErrorbarContainer)
        }
        for axes in figure.axes
    ]


def test_a_damaged_probe_is_refused(probed: tuple[Path, Path, str], tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    path = tmp_path / "probe" / "probe.json"
    whole = (probed[0] / "probe" / "probe.json").read_text()
    for text in ("", "{}", "[]", whole[:200], whole.replace('"loss"', '"los"', 1)):
        path.write_text(text)
        with pytest.raises(UnipoolError, match=r"probe\.json cannot be read: \w+; run `unipool-dist probe"):
            read_probe(tmp_path)
    path.write_text(json.dumps({**json.loads(whole), "format_version": 7}))
    with pytest.raises(UnipoolError, match="has format_version=7, this version reads 1"):
        read_probe(tmp_path)


def test_probes_of_different_text_are_not_put_side_by_side(probed: tuple[Path, Path, str]) -> None:
    other: Probe = read_probe(probed[1])
    check_comparable(other, other.corpus, dict(other.tokens))
    for corpus, tokens in ((other.corpus, {"prose": 5}), ("another", dict(other.tokens))):
        with pytest.raises(UnipoolError, match=r"layered/seed-3 was probed on 384 tokens of corpus .* probe both"):
            check_comparable(other, corpus, tokens)


def test_a_new_run_in_the_directory_has_not_been_probed(probed: tuple[Path, Path, str], tmp_path: Path) -> None:
    run_dir = shutil.copytree(probed[1], tmp_path / "run")
    (run_dir / "watchdog" / "2026-01-02T03-04-05").mkdir(parents=True)
    begin_run_dir(run_dir, load_config(run_dir / "config.yaml"), {})
    assert not (run_dir / "probe").exists() and not (run_dir / "watchdog").exists()
