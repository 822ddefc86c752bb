"""``unipool-dist report``: the runs of an experiment on one page."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unipool_dist.base.belongings import foreign, refuse
from unipool_dist.base.console import put, say
from unipool_dist.base.forms import json_object
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.writing import replace_text
from unipool_dist.observe.files import ELSEWHERE, naming


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="The page.  [default: DIR/report.html]")
@click.option("--baseline", metavar="VARIANT", help="Compare with this one.  [default: as in DIR/experiment.yaml]")
@click.option("--json", "json_file", metavar="FILE|-", help="Also write the numbers of the tables as JSON.")
def report(directory: Path, output: Path | None, baseline: str | None, json_file: str | None) -> None:
    """Compare the runs in DIR on one self-contained HTML page.

    DIR is that of an experiment, with experiment.yaml and runs in VARIANT/seed-N. Without that file every run below
    DIR is taken, and its variant is its path, less seed-N. Runs that are not finished are named and left out of means.

    The figures are in the page, and next to it in figures/ as PNG.
    """
    from unipool_dist.report.page import check_replaceable, write_page
    from unipool_dist.report.runs import left_out, read_runs
    from unipool_dist.report.summary import summarize

    page = output or RunDirectory(directory).report
    check_replaceable(page)
    if json_file not in (None, "-"):
        refuse(
            foreign(Path(json_file), json_object("problems", "warnings", "variants", "runs")), f"writing {json_file}"
        )
    experiment, runs = read_runs(directory)
    experiment = experiment.compared_with(baseline)
    summary = summarize(experiment, runs)
    written = write_page(directory, page, experiment, runs, summary)
    if json_file is not None:
        document = json.dumps(summary.as_dict(), indent=1) + "\n"
        if json_file == "-":
            put(document)
        else:
            with naming(Path(json_file), ELSEWHERE):
                replace_text(Path(json_file), document)
            written.append(Path(json_file))
    for run_dir in left_out(directory, experiment, runs):
        say(f"warning: {run_dir} is not a run of the experiment and is left out", err=True)
    for problem in summary.problems:
        say(f"warning: in no mean: {problem}", err=True)
    say("\n".join(map(str, written)), err=json_file == "-")
