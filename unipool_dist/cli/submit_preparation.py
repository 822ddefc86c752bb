"""``unipool-dist submit ... -- data prepare OUT ...``: the preparation of a corpus as jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from unipool_dist.base.console import put, say
from unipool_dist.base.printable import printable
from unipool_dist.base.programs import shown

_TAKEN = {"config_path", "overrides", "limit", "name", "profile_path", "after", "shards", "no_requeue", "template"}
"""Options of `submit` that mean something here; ``dry_run`` too."""


def submit_preparation(context: click.Context, words: Sequence[str]) -> None:
    """Submit what ``data prepare`` with the arguments ``words`` does, with the options of `submit` in ``context``."""
    given = context.params
    others = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in {*_TAKEN, "dry_run"}
        and context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    ]
    if others:
        raise click.UsageError(f"{', '.join(others)}: not for `data prepare`, whose tasks are one process on one node")
    if given["limit"] is None:
        raise click.UsageError("missing: --time, of one task")
    from unipool_dist.cli.data import prepare
    from unipool_dist.jobs.preparation import Preparation
    from unipool_dist.jobs.profile import load_profile
    from unipool_dist.jobs.render import Resources

    asked = prepare.make_context("data prepare", list(words)).params  # with errors of its own, now and not in the queue
    if asked["shard"] is not None:
        raise click.UsageError("data prepare --shard: give `submit` the number of --shards, and it numbers them")
    out: Path = asked["out"]
    resources = Resources(
        name=given["name"] or f"prepare-{out.name}",
        nodes="1",
        tasks_per_node=1,
        gpus_per_node=0,
        time=given["limit"],
        after=given["after"],
        requeue=not given["no_requeue"],
    )
    preparation = Preparation.of(
        out,
        ["data", "prepare", *words],
        shards=given["shards"] or 1,
        workers=asked["workers"],
        resources=resources,
        profile=load_profile(given["profile_path"]),
        template=given["template"],
    )
    if given["dry_run"]:
        put(preparation.script())
        return
    preparation.write()
    jobs = preparation.submit()
    folder = preparation.folder
    say(f"job{'s' if len(jobs) > 1 else ''} {', '.join(jobs)} submitted; the corpus will be in {printable(out)}")
    say(f"  state    {shown(['squeue', '--jobs=' + ','.join(jobs)])}")
    say(f"  log      tail -F {shown([folder.files.logs])}/*.log")
    say(f"  stop     {shown(['scancel', *jobs])}    (what is done is kept)")
    say("  continue the same command again")
