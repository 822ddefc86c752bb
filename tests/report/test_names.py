"""Names are drawn and written as they are: no dollar makes a formula, and no control character gets out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.text import Text

from tests.report.made import describe, made_probe, make_run, usage_table
from unipool_dist.cli import cli
from unipool_dist.observe.figures import LossCurves, loss_figure, save, usage_figure
from unipool_dist.observe.run_figures import write_figures
from unipool_dist.probe.plots import draw

WILD = ("$$", r"a$\frac{$", "$x_1$ and $", r"\$ $\bad$", "\x1b[2J\x07", "over\rwritten\x9b31m", "\ud800 \u202e")


def test_a_page_about_any_names(tmp_path: Path) -> None:
    """Of variants, their titles, domains, the experiment and its description."""
    titles = [name.replace("\ud800", "") for name in WILD]  # YAML holds no lone surrogates
    for number in range(len(titles)):
        metrics = make_run(tmp_path / f"v{number}" / "seed-1", probed=number < 2) / "metrics.jsonl"
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
        for record in records:
            if "validation" in record:
                record["validation"] = dict.fromkeys(WILD, 3.0 + number)
        metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    variants = {f"v{number}": {"title": title} for number, title in enumerate(titles)}
    describe(tmp_path, variants, seeds=[1], title=titles[1], description=" ".join(titles))
    result = CliRunner().invoke(cli, ["report", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text()
    assert page.count(r"a$\frac{$") > 5 and r"\x1b[2J\x07" in page and r"\ud800 \u202e" in page
    for written in (page, result.output):
        assert not set(written) & set("\x07\r\x1b\x9b\u202e"), "a control character as it is"
    assert {path.stem for path in (tmp_path / "figures").iterdir()} >= {"domains", "final_loss", "probe_distinct"}


@pytest.mark.parametrize("name", ["$$", r"a$\frac{$", "\x1b[2J"])
def test_figures_of_a_run_and_of_a_probe_with_any_names(tmp_path: Path, name: str) -> None:
    run_dir = make_run(tmp_path / "run").rename(tmp_path / name)
    (run_dir / "data_summary.json").write_text(json.dumps({"unigram_entropy": dict.fromkeys(WILD, 6.0)}))
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 80, "validation": dict.fromkeys(WILD, 3.0), "bits_per_byte": {}}) + "\n")
    for path in write_figures(run_dir).values():
        assert path.stat().st_size > 10_000
    probe = made_probe("run", usage_table(4, 1, 8), 1, 3.0)
    update = {
        "run": name,
        "tokens": dict.fromkeys(WILD[:2], 1),
        "counts": dict.fromkeys(WILD[:2], probe.counts["prose"]),
    }
    assert len(draw([probe.model_copy(update=update)], tmp_path)) == 4


def test_what_a_figure_says_is_shown_to_the_letter(tmp_path: Path) -> None:
    curves = LossCurves(([1, 2], [8.0, 7.0]), {r"a$\frac{$": ([2], [6.5])})
    figure = loss_figure(curves, "$$")
    save(figure, tmp_path / "loss.png")
    said = [text for text in figure.findobj(Text) if isinstance(text, Text) and "$" in text.get_text()]
    assert {text.get_text() for text in said} >= {r"validation: a$\frac{$"} and any("$$" in t.get_text() for t in said)
    assert not any(text.get_parse_math() for text in said)


def test_no_figure_needs_formulas_of_its_own(tmp_path: Path) -> None:
    """As powers of ten at a logarithmic axis would: they would be shown as they are written."""
    counts = np.array([[6, 20_000, 0, 0], [0, 2, 600, 0]])
    figure = usage_figure(counts, 1, 40, "run")
    save(figure, tmp_path / "usage.png")
    texts = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
    assert not [text for text in texts if "$" in text] and "10,000" in texts
