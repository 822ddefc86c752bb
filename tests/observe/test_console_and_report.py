"""Console lines line up; figures come from the run's folder alone and show what is in its files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unipool_dist.errors import UnipoolError
from unipool_dist.observe import run_figures
from unipool_dist.observe.figures import LossCurves, loss_figure, running_mean, usage_figure
from unipool_dist.observe.files import name_of
from unipool_dist.observe.lines import train_line, validation_line
from unipool_dist.observe.metrics import MetricsWriter
from unipool_dist.observe.run_figures import collect_losses, write_figures
from unipool_dist.observe.token_scale import TokenScale

RECORD: dict[str, float | int] = {
    "step": 7, "loss": 5.25, "aux_loss": 0.0101, "grad_norm": 1.5,
    "lr": 1e-3, "tokens": 7 * 4096, "tokens_per_s": 3120.4, "memory_bytes": 3 * 2**29,
}  # fmt: skip


def test_train_line_shows_every_number_with_its_unit() -> None:
    line = train_line(RECORD, total_steps=100)
    for part in (
        "step   7/100",
        "loss  5.2500",
        "aux  0.01010",
        "norm    1.500",
        "1.00e-03",
        "3,120 tokens/s",
        "1.50 GiB",
    ):
        assert part in line


def test_the_highest_of_a_window_stands_beside_its_mean() -> None:
    highest = {"loss_max": 6.5, "aux_loss_max": 0.02, "grad_norm_max": 321.0}
    line = train_line(RECORD | highest, total_steps=100, maxima=True)
    assert "loss  5.2500 (max  6.5000)  aux  0.01010 (max  0.02000)  grad norm    1.500 (max  321.000)" in line
    assert "max" not in train_line(RECORD | highest, total_steps=100)


def test_lines_of_different_steps_and_domains_line_up() -> None:
    late = RECORD | {"step": 100, "loss": 10.5, "grad_norm": 123.4, "tokens_per_s": 1234567.0}
    assert len(train_line(RECORD, 100)) == len(train_line(late, 100))
    highest = {"loss_max": 6.5, "aux_loss_max": 0.02, "grad_norm_max": 321.0}
    short, long = (train_line(record | highest, 100, maxima=True) for record in (RECORD, late))
    assert len(short) == len(long)
    lines = [validation_line(5, 100, "web", 3.0, 1.5, 6.2), validation_line(100, 100, "documentation", 10.0, 2.25, 7.0)]
    assert len(lines[0]) == len(lines[1])
    assert "loss  3.0000  (unigram  6.2000)   1.500 bits/byte" in lines[0]
    assert "unigram" not in validation_line(5, 100, "web", 3.0, 1.5)


def test_memory_is_left_out_where_it_is_unknown() -> None:
    assert "GiB" not in train_line({key: value for key, value in RECORD.items() if key != "memory_bytes"}, 100)


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_figures_are_made_from_a_run_folder(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.train(RECORD)
    writer.validation(7, {"web": 3.0}, {"web": 1.5})
    assert set(write_figures(tmp_path)) == {"loss_curve"}  # before usage and summary exist
    writer.usage(7, np.array([[3, 1], [0, 4]]))
    writer.close()
    (tmp_path / "data_summary.json").write_text(json.dumps({"unigram_entropy": {"web": 6.2}}))
    written = write_figures(tmp_path)
    assert written == {"loss_curve": tmp_path / "loss_curve.png", "expert_usage": tmp_path / "expert_usage.png"}
    for path in written.values():
        assert min(png_size(path)) > 500


def test_the_runs_of_an_experiment_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_of(tmp_path / "small") == "small" and name_of(tmp_path / "seed-one") == "seed-one"
    run_dir = tmp_path / "vanilla" / "seed-1"
    run_dir.mkdir(parents=True)
    assert name_of(run_dir) == "vanilla/seed-1", "seed-1 is also that of every other variant"
    monkeypatch.chdir(run_dir)
    assert name_of(Path()) == "vanilla/seed-1"


def test_figures_are_titled_with_the_name_that_tells_runs_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []

    def keep(figure: Figure, path: Path) -> Path:
        titles.append(figure.get_suptitle() or axes_of(figure).get_title())
        return path

    monkeypatch.setattr(run_figures, "save", keep)
    run_dir = tmp_path / "vanilla" / "seed-1"
    run_dir.mkdir(parents=True)
    writer = MetricsWriter(run_dir)
    writer.train(RECORD)
    writer.usage(7, np.array([[3, 1], [0, 4]]))
    writer.close()
    write_figures(run_dir)
    assert len(titles) == 2 and all("vanilla/seed-1" in title for title in titles), titles


@pytest.mark.parametrize("content", [None, ""])
def test_a_folder_without_metrics_is_an_error_that_names_it(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UnipoolError, match=r"metrics\.jsonl is missing or empty"):
        write_figures(tmp_path)


def test_curves_hold_the_recorded_losses() -> None:
    curves = collect_losses([RECORD, {"step": 7, "validation": {"web": 3.0, "code": 2.0}, "bits_per_byte": {}}])
    assert curves.train == ([7], [5.25])
    assert curves.validation == {"web": ([7], [3.0]), "code": ([7], [2.0])}
    assert TokenScale.of(curves.train[0], curves.tokens) == TokenScale((0,), (4096.0,))


def test_the_highest_loss_of_a_window_is_drawn_above_its_mean() -> None:
    """Of files of a version that recorded single steps, and of a run that went on from them, too."""
    old, new = [RECORD | {"step": step, "tokens": step} for step in (1, 2)]
    new |= {"window_steps": 2, "loss_max": 7.0}
    curves = collect_losses([old, new])
    assert (curves.train, curves.train_max) == (([1, 2], [5.25, 5.25]), [5.25, 7.0])
    (band,) = axes_of(loss_figure(curves, "run")).collections
    assert band.get_paths()[0].get_extents().y1 == 7.0
    assert not axes_of(loss_figure(collect_losses([old]), "run")).collections, "one step is its own maximum"


def axes_of(figure: Figure) -> Axes:
    return figure.axes[0]


def test_loss_figure_draws_the_unigram_entropy_dashed_in_the_domain_colour() -> None:
    curves = LossCurves(([1, 2], [8.0, 7.0]), {"web": ([2], [6.5])}, {"web": 6.2, "not evaluated": 5.0})
    axes = axes_of(loss_figure(curves, "run"))
    dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert [list(np.asarray(line.get_ydata())) for line in dashed] == [[6.2, 6.2]]
    (web,) = [line for line in axes.get_lines() if line.get_label() == "validation: web"]
    assert web.get_color() == dashed[0].get_color()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer step", "loss (nats per token)")


def test_usage_figure_captions_the_numbers_and_survives_an_unused_pool() -> None:
    figure = usage_figure(np.array([[6, 2, 0, 0], [0, 2, 6, 0]]), 1, 40, "run")
    assert "dead experts 25.0%" in figure.get_supxlabel()
    assert "busiest expert 1.50 x mean" in figure.get_supxlabel()
    assert "step 40" in figure.get_suptitle()
    usage_figure(np.zeros((2, 4), dtype=np.int64), 2, 0, "run").canvas.draw_idle()


def test_running_mean_is_centred_and_shrinks_at_the_ends() -> None:
    assert running_mean([0.0, 3.0, 6.0, 9.0], reach=1) == [1.5, 3.0, 6.0, 7.5]
    assert running_mean([1.0, 2.0], reach=0) == [1.0, 2.0]
