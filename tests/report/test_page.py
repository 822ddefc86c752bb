"""The page holds what was found, needs nothing else, and every figure of it can be seen and is explained."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.report.made import describe, make_experiment, make_run
from tests.support.running import one_thread
from tests.support.using import complete
from unipool_dist.cli import cli
from unipool_dist.config import load_config
from unipool_dist.report import text
from unipool_dist.report.pictures import _apart
from unipool_dist.report.statistics import Estimate

LOSSES = {
    "layered": {1: 3.0, 2: 3.1, 3: 3.3},
    "pool": {1: 2.9, 2: 3.05, 3: 3.1},
    "dense": {1: 3.5, 2: 3.4},
    "unbegun": {},
}
FIGURES = {
    "final_loss", "training_loss", "validation_loss", "domains", "expert_usage",
    "probe_randomized_pool", "probe_randomized_matched", "probe_distinct", "probe_ownership",
}  # fmt: skip


class Page(HTMLParser):
    """Tables as cells by table, row and field; figures with their captions; whatever an element refers to."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.cells: dict[str, dict[str, dict[str, str]]] = {}
        self.images: list[dict[str, str]] = []
        self.captions: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._table = self._row = self._field = ""
        self._in_caption = False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.references += [found[name] for name in ("src", "href", "action", "data", "srcset") if name in found]
        if tag == "table":
            self._table = found["id"]
        elif tag == "tr":
            self._row = found.get("data-variant") or found.get("data-run") or ""
        elif tag == "td":
            self._field = found.get("data-field", "title")
            self.cells.setdefault(self._table, {}).setdefault(self._row, {})[self._field] = ""
        elif tag == "img":
            self.images.append(found)
        elif tag == "figcaption":
            self.captions.append("")
            self._in_caption = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._field = ""
        elif tag == "figcaption":
            self._in_caption = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._field:
            self.cells[self._table][self._row][self._field] += data
        elif self._in_caption:
            self.captions[-1] += data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page, dict[str, Any]]:
    """An experiment of four variants, its page, and the numbers as JSON."""
    folder = make_experiment(tmp_path_factory.mktemp("made") / "x y", LOSSES, description="Is it <b>true</b>?")
    result = CliRunner().invoke(cli, ["report", str(folder), "--json", "-"], catch_exceptions=False)
    assert result.exit_code == 0 and str(folder / "report.html") in result.stderr
    return folder, Page((folder / "report.html").read_text()), json.loads(result.stdout)


def test_the_page_refers_to_nothing_outside_itself(made: tuple[Path, Page, dict[str, Any]]) -> None:
    folder, page, _ = made
    assert page.references
    assert all(each.startswith("data:image/png;base64,") or each == "#again" for each in page.references)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    content = (folder / "report.html").read_text()
    assert "url(" not in content and "@import" not in content and "http" not in re.sub(r"base64,[^\"]*", "", content)


def test_every_figure_is_a_file_that_is_not_blank_with_alt_text_and_caption(
    made: tuple[Path, Page, dict[str, Any]],
) -> None:
    folder, page, _ = made
    files = {path.stem: path for path in (folder / "figures").iterdir()}
    assert files.keys() == FIGURES
    assert len(page.images) == len(page.captions) == len(FIGURES)
    for image, caption in zip(page.images, page.captions, strict=True):
        assert len(image["alt"]) > 20 and len(caption) > 40 and caption.endswith("."), caption
    embedded = {base64.b64decode(image["src"].partition(",")[2]) for image in page.images}
    assert embedded == {path.read_bytes() for path in files.values()}
    for path in files.values():
        with Image.open(path) as picture:
            assert min(picture.size) > 180 and len(np.unique(np.asarray(picture.convert("L")))) > 20, path


def test_a_small_pool_stands_beside_the_matched_form_of_a_large_one(made: tuple[Path, Page, dict[str, Any]]) -> None:
    _, page, _ = made
    (number,) = (
        i for i, image in enumerate(page.images) if "random" in image["alt"] and "8 experts" in page.captions[i]
    )
    assert "for 2 variants" in page.images[number]["alt"]
    assert "from the 8 experts that the layer uses most (of The layered one, with no more" in page.captions[number]


def test_a_probe_of_an_earlier_checkpoint_is_told_and_left_out(tmp_path: Path) -> None:
    make_experiment(tmp_path / "x", {"pool": {1: 3.0, 2: 3.1}}, seeds=[1, 2])
    for seed, figures in ((1, 4), (2, 0)):
        path = tmp_path / "x" / "pool" / f"seed-{seed}" / "probe" / "probe.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 40}))
        complete("report", tmp_path / "x")
        page = Page((tmp_path / "x" / "report.html").read_text())
        said = f"the probe of pool, seed {seed}, is of step 40, and not of the last, 80; it is left out"
        assert said in page.text[: page.text.index("Results")]
        probed = [caption for caption in page.captions if "probed on" in caption]
        assert len(probed) == figures and all("1 run probed" in caption for caption in probed)


def test_json_has_the_numbers_of_the_page(made: tuple[Path, Page, dict[str, Any]]) -> None:
    _, page, document = made
    assert set(page.cells) == {"variants", "runs", "domains"}
    simple = {"stored_parameters": text.large, "active_parameters": text.large, "tokens": text.large}
    means = {
        "tokens_per_s": text.count,
        "busiest_over_mean": text.ratio,
        "effective_experts": text.number,
        "ownership": text.percent,
    }
    losses = {"validation_loss": text.loss, "training_loss": text.loss}
    for variant in document["variants"]:
        cells = page.cells["variants"][variant["name"]]
        assert cells["n"] == str(len(variant["seeds"])) and variant["title"] in cells["title"]
        for field, show in simple.items():
            assert cells[field] == show(variant[field]), field
        for field, show in means.items():
            assert cells[field] == show(variant[field]["mean"] if variant[field] else None), field
        for field, show in (("validation_loss", text.loss), ("difference", text.difference)):
            value = Estimate(**variant[field]) if variant[field] else None
            interval = text.interval(value) if field == "difference" else ""
            assert cells[field] == f"{show(text.mean(value))} {text.error(value)}".strip() + interval
        for domain, value in variant["domains"].items():
            assert page.cells["domains"][variant["name"]][domain].startswith(text.loss(value["mean"]))
    for run in document["runs"]:
        cells = page.cells["runs"][f"{run['variant']}/{run['seed']}"]
        assert (cells["seed"], cells["state"]) == (str(run["seed"]), run["state"])
        for field, show in {**means, **losses, "tokens": text.large}.items():
            assert cells[field] == show(run[field]), field
    assert len(page.cells["runs"]) == len(document["runs"])


def test_means_and_differences_are_those_of_the_runs(made: tuple[Path, Page, dict[str, Any]]) -> None:
    _, page, document = made
    layered, pool, dense, unbegun = document["variants"]
    assert pool["validation_loss"]["mean"] == pytest.approx((2.9 + 3.05 + 3.1) / 3 + 0.5)
    differences = np.array([-0.1, -0.05, -0.2])
    error = differences.std(ddof=1) / np.sqrt(3)
    assert pool["difference"]["mean"] == pytest.approx(differences.mean())
    assert pool["difference"]["standard_error"] == pytest.approx(error)
    assert pool["difference"]["low"] == pytest.approx(differences.mean() - 4.302653 * error)
    assert pool["domain_differences"]["sums"]["mean"] == pytest.approx(differences.mean())
    assert dense["difference"]["mean"] == pytest.approx(0.4) and dense["difference"]["low"] is None
    assert layered["difference"] is None and layered["is_baseline"]
    assert unbegun["validation_loss"] is None and page.cells["variants"]["unbegun"]["validation_loss"] == text.NOTHING
    assert page.cells["variants"]["dense"]["ownership"] == text.NOTHING
    assert page.cells["variants"]["layered"]["ownership"] == "100.0 %"


def test_runs_that_are_missing_are_named_at_the_top(made: tuple[Path, Page, dict[str, Any]]) -> None:
    folder, page, document = made
    assert len(document["problems"]) == 4
    head = page.text[: page.text.index("Results")]
    assert "4 runs are not finished and left out of all means" in head
    assert f"dense, seed 3: there is no run in {folder / 'dense' / 'seed-3'}" in head
    assert "Is it <b>true</b>?" in head and "A & B" in head  # as text


def test_commands_repeat_a_run(made: tuple[Path, Page, dict[str, Any]]) -> None:
    folder, page, document = made
    run = document["runs"][0]
    assert run["command"] in page.text
    program, verb, config, option, processes, override = shlex.split(run["command"])
    assert (program, verb, option, processes) == ("unipool-dist", "train", "--nproc", "2")
    assert load_config(config, [override]).run.dir == "runs/again/layered/seed-1"
    assert f"unipool-dist report {shlex.quote(str(folder))}" in page.text


def test_another_baseline_and_another_place(made: tuple[Path, Page, dict[str, Any]], tmp_path: Path) -> None:
    folder, _, _ = made
    output = tmp_path / "new" / "page.html"
    numbers = tmp_path / "numbers.json"
    arguments = ["report", str(folder), "--output", str(output), "--baseline=pool", f"--json={numbers}"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert set(result.stdout.splitlines()) == {
        str(output),
        str(numbers),
        *(str(tmp_path / "new" / "figures" / f"{name}.png") for name in FIGURES),
    }
    assert json.loads(numbers.read_text())["variants"][0]["difference"]["mean"] == pytest.approx(0.35 / 3)


def test_many_variants_of_different_sizes_and_batches(tmp_path: Path) -> None:
    for number in range(9):
        sizes = (f"pool.num_experts={8 << min(number, 5)}", f"train.global_batch_size={16 if number else 32}")
        make_run(tmp_path / f"v{number}" / "seed-1", overrides=sizes, loss=3 + number / 10)
    path = tmp_path / "v0" / "seed-1" / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    doubled = [record | {"tokens": 2 * record["tokens"]} if "tokens" in record else record for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in doubled))
    complete("report", tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.cells["variants"]) == 9
    assert any("against tokens seen" in image["alt"] for image in page.images)


def test_without_any_finished_run_the_page_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "seed-1", steps=10)
    describe(tmp_path, {"a": {}}, seeds=[1])
    _, warnings = complete("report", tmp_path)
    assert "in no mean: a, seed 1: stopped at step 10" in warnings
    page = Page((tmp_path / "report.html").read_text())
    assert not page.images and "0 of 1 runs finished" in page.text


def test_labels_are_moved_apart_and_not_below_the_axis() -> None:
    heights = [0.1, 0.1, 0.2, 0.1]
    at = _apart([0.0, 0.01, 0.02, 0.9], heights)
    assert at[0] >= 0.05 and at[3] == 0.9
    for i in range(3):
        assert at[i + 1] - at[i] >= (heights[i] + heights[i + 1]) / 2 - 1e-3


def test_a_real_run(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "unipool" / "seed-1")
    # The command line ends with click's exit, so that what was imported is told on the way out.
    program = "import atexit, sys; from unipool_dist.cli import main; "
    program += "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); main()"
    command = [sys.executable, "-c", program, "report", str(tmp_path), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=one_thread())
    assert done.stderr.endswith("False\n")
    document = json.loads(done.stdout)
    (variant,) = document["variants"]
    records = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    losses = [record for record in records if "validation" in record][-1]["validation"]
    assert variant["validation_loss"]["mean"] == pytest.approx(sum(losses.values()) / len(losses))
    assert variant["stored_parameters"] > variant["active_parameters"] > 0 and variant["ownership"]["mean"] > 0
    assert variant["difference"] is None
    page = Page((tmp_path / "report.html").read_text())
    assert "torch 2" in page.text  # from the checkpoint
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"final_loss", "training_loss", "expert_usage"}
