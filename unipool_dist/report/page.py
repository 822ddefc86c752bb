"""The page: tables and figures in one self-contained HTML file."""

from __future__ import annotations

import base64
import datetime
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup

from unipool_dist.base.belongings import exists, foreign, refuse
from unipool_dist.base.forms import head, is_png
from unipool_dist.base.machine import current_versions
from unipool_dist.base.printable import printable
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.writing import replace_text
from unipool_dist.experiment.specification import FROZEN_FILE
from unipool_dist.observe.figures import save
from unipool_dist.observe.files import ELSEWHERE, is_our_figure, naming
from unipool_dist.report import text
from unipool_dist.report.loss_figures import domain_picture, final_picture, training_picture, validation_picture
from unipool_dist.report.pictures import Findings, Picture, collect
from unipool_dist.report.probe_figures import probe_pictures
from unipool_dist.report.runs import Run
from unipool_dist.report.summary import Summary
from unipool_dist.report.usage_figure import usage_picture
from unipool_dist.report.variants import Experiment

_GENERATOR = b'<meta name="generator" content="unipool-dist report">'
_MOST_BYTES = 256 << 20
_TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Embedded:
    """A picture as embedded in the page."""

    picture: Picture
    path: Path
    source: str
    """A data: URI."""


def write_page(directory: Path, output: Path, experiment: Experiment, runs: list[Run], summary: Summary) -> list[Path]:
    """Write the page to ``output`` and its figures into a folder next to it; return all paths, the page first.

    Raises:
        ForeignError: one of them exists and is not a report's; nothing is written then.
        UnipoolError: they cannot be written.
    """
    findings = collect(experiment, runs, summary)
    pictures = _pictures(findings)
    folder = RunDirectory(output.parent).report_figures
    check_replaceable(output, [each.name for drawn in pictures.values() for each in drawn])
    with naming(folder, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        sections = {name: [_embedded(each, folder) for each in drawn] for name, drawn in pictures.items()}
    page = render(directory, experiment, summary, sections, findings, _versions(runs))
    with naming(output, ELSEWHERE):
        replace_text(output, page)
    return [output, *(each.path for drawn in sections.values() for each in drawn)]


def check_replaceable(output: Path, figures: Sequence[str] = ()) -> None:
    """Refuse to replace what is not a page, or not a figure of one.

    Args:
        figures: their names. Next to a page any PNG of that name is one, as earlier versions left no mark in it.

    Raises:
        ForeignError: naming it.
    """
    folder = RunDirectory(output.parent).report_figures
    found = foreign(output, is_page)
    if exists(folder) and not folder.is_dir():
        found.append(folder)
    form = is_png if exists(output) and not found else is_our_figure
    found += [path for name in figures for path in foreign(folder / f"{name}.png", form)]
    refuse(found, f"writing {output}")


def is_page(path: Path) -> bool:
    """Return whether ``path`` is a report; those of earlier versions named the command alone."""
    text = head(path, _MOST_BYTES)
    return text.lstrip().startswith(b"<!DOCTYPE html>") and (_GENERATOR in text or b"unipool-dist report " in text)


def render(
    directory: Path,
    experiment: Experiment,
    summary: Summary,
    sections: Mapping[str, list[Embedded]],
    findings: Findings,
    versions: list[tuple[str, str]],
) -> str:
    """Return the text of the page."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, finalize=_without_controls
    )
    template = environment.from_string(files("unipool_dist.report").joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    finished = sum(run.state == "finished" for run in summary.runs)
    values: dict[str, Any] = {
        "experiment": experiment,
        "summary": summary,
        "sections": sections,
        "styles": findings.styles,
        "text": text,
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "finished": finished,
        "directory": str(directory),
        "command": f"unipool-dist report {shlex.quote(str(directory))}",
        "baseline_title": experiment.title_of(experiment.baseline) if experiment.baseline else None,
        "titles": {variant.name: variant.title for variant in experiment.variants},
        "versions": versions,
        "described": (directory / FROZEN_FILE).exists(),
    }
    return template.render(values)


def _without_controls(value: object) -> object:
    """Escape control characters in values put into the page; the template's own markup is left as it is."""
    return printable(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


def _pictures(findings: Findings) -> dict[str, list[Picture]]:
    drawn: dict[str, list[Picture | None]] = {
        "results": [final_picture(findings)],
        "curves": [training_picture(findings), validation_picture(findings)],
        "domains": [domain_picture(findings)],
        "usage": [usage_picture(findings)],
        "probe": [*probe_pictures(findings)],
    }
    return {name: [picture for picture in pictures if picture is not None] for name, pictures in drawn.items()}


def _embedded(picture: Picture, folder: Path) -> Embedded:
    path = save(picture.figure, folder / f"{picture.name}.png")
    return Embedded(picture, path, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"))


def _versions(runs: list[Run]) -> list[tuple[str, str]]:
    """Return the software of the runs, from their checkpoints, and of the page."""
    wrote: dict[str, list[str]] = {}
    for run in runs:
        if run.versions:
            wrote.setdefault(_listed(run.versions), []).append(f"{run.variant}/{run.seed}")
    with_runs = [(f"{len(names)} of {len(runs)} runs", listed) for listed, names in wrote.items()]
    own = {"unipool-dist": current_versions()["unipool-dist"]}
    own |= {"python": platform.python_version(), "matplotlib": matplotlib.__version__}
    return [*with_runs, ("this page", _listed(own))]


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
