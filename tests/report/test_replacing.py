"""``report`` replaces its own pages and figures, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from tests.support.trees import snapshot
from unipool_dist.base.belongings import ForeignError
from unipool_dist.cli.report import report
from unipool_dist.observe.figures import save
from unipool_dist.report.page import check_replaceable, is_page

OURS = '<!DOCTYPE html>\n<meta name="generator" content="unipool-dist report">\n'
EARLIER = "<!DOCTYPE html>\n<h1>runs</h1><pre><code>unipool-dist report runs</code></pre>"


def _page(folder: Path) -> None:
    (folder / "report.html").write_text("<!DOCTYPE html><p>the report to the board</p>")


def _link_to_a_page(folder: Path) -> None:
    (folder / "mine.html").write_text("<p>of somebody</p>")
    (folder / "report.html").symlink_to("mine.html")


def _dangling(folder: Path) -> None:
    (folder / "report.html").symlink_to("nowhere")


def _figure(folder: Path) -> None:
    (folder / "figures").mkdir()
    Figure().savefig(folder / "figures" / "curves.png")


def _file_for_a_folder(folder: Path) -> None:
    (folder / "figures").write_text("a file")


@pytest.mark.parametrize("put", [_page, _link_to_a_page, _dangling, _figure, _file_for_a_folder])
def test_what_is_somebody_elses_is_named_and_stays(put: Callable[[Path], None], tmp_path: Path) -> None:
    put(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(ForeignError, match=r"report\.html|figures"):
        check_replaceable(tmp_path / "report.html", ["curves"])
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("text", [OURS, EARLIER])
def test_a_page_of_ours_is_replaced_with_its_figures(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(text)
    _figure(tmp_path)  # as an earlier version left it, without a mark
    save(Figure(), tmp_path / "figures" / "usage.png")
    assert is_page(tmp_path / "report.html")
    check_replaceable(tmp_path / "report.html", ["curves", "usage"])


def test_numbers_are_not_written_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "numbers.json").write_text('{"mine": 1}')
    result = CliRunner().invoke(report, [str(tmp_path), "--json", str(tmp_path / "numbers.json")])
    assert isinstance(result.exception, ForeignError) and "numbers.json" in str(result.exception)
    assert (tmp_path / "numbers.json").read_text() == '{"mine": 1}'
