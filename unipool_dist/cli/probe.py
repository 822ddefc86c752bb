"""``unipool-dist probe``: how much a model's routing matters, and how its layers share the experts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from unipool_dist.base.console import say
from unipool_dist.base.printable import aligned
from unipool_dist.base.progress_bars import count_bar
from unipool_dist.cli.inference import Use, chosen_batches, on_every_rank, sequences_option, use_options
from unipool_dist.cli.option_types import COUNT
from unipool_dist.errors import UnipoolError

if TYPE_CHECKING:
    from unipool_dist.config import Plan
    from unipool_dist.inference.opened import OpenedRun
    from unipool_dist.probe.record import Probe


@click.command()
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="RUN", help="Draw the probe of this run next to it."
)
@click.option("--seeds", type=COUNT, default=3, show_default=True, help="Random routings of each kind.")
@sequences_option
@use_options
def probe(against: Path | None, seeds: int, sequences: int | Literal["all"] | None, **use: Any) -> None:
    """Probe how much the routing of RUN's model matters, and how its layers share the experts.

    \b
    RUN/probe/probe.json      everything measured
    RUN/probe/randomized.png  loss added when one layer's experts are drawn at random,
                              layer by layer: from the whole pool, and from the 8 that
                              the layer uses most; the router's own scores are the gates
    RUN/probe/distinct.png    distinct experts that a token meets over depth
    RUN/probe/ownership.png   how many layers use an expert, which is to make at
                              least 1/(2 G) of its choices if G layers share a pool
    RUN/probe/affinity.png    domains and experts

    With --against also RUN/probe/against-NAME/ with these figures of both runs; that one has to be probed before, on
    the same sequences. Random routing is the same for a seed on any layout. A dense model has nothing to be probed.
    """
    from unipool_dist.probe.record import check_comparable, check_replaceable, read_probe

    check_replaceable(use["run"])
    other = read_probe(against) if against is not None else None

    def work(run: OpenedRun) -> None:
        from unipool_dist.probe.measure import measure, num_evaluations
        from unipool_dist.probe.record import write_probe

        batches = chosen_batches(run, sequences)
        if other is not None:
            tokens = {name: batch.num_predicted for name, batch in batches.items()}
            check_comparable(other, run.corpus.content_hash, tokens)
        total = num_evaluations(run, seeds) * sum(map(len, batches.values()))
        with count_bar("probing", total, "sequences", show=run.is_main) as count:
            found = measure(run, batches, seeds, count)
        if not run.is_main:
            return
        from unipool_dist.probe.plots import draw

        written = [write_probe(found, use["run"])]
        written += draw([found], written[0].parent)
        say("\n".join([*_text(found), "", *map(str, written)]))
        if other is not None:
            folder = written[0].parent / f"against-{other.run.replace('/', '-')}"
            folder.mkdir(exist_ok=True)
            say("\n".join(map(str, draw([found, other], folder))))

    on_every_rank(Use(**use), work, _check_that_it_routes)


def _check_that_it_routes(plan: Plan) -> None:
    if plan.pool.router == "none":
        raise UnipoolError(
            "the run has pool.router=none: its model is dense, so there is no routing to probe; probe one with experts"
        )


def _text(found: Probe) -> list[str]:
    """Return the loss added by layer and form, then other results as single numbers."""
    num_seeds = len(found.randomized["pool"].loss)
    spread = f" ± SD of {num_seeds} seeds" if num_seeds > 1 else ""
    forms = {"pool": f"of all {found.num_experts}", "matched": "of the 8 most used"}
    added = {form: each.added_to(found.loss) for form, each in found.randomized.items()}
    rows = [("random layer", *(f"loss added{spread}, {forms[form]}" for form in added))]
    rows += [
        (str(layer), *(_mean_and_spread(added_SL[:, layer]) for added_SL in added.values()))
        for layer in range(found.num_layers)
    ]
    deep = slice(found.num_layers // 2, None)
    rows.append(("deeper half", *(f"{added_SL[:, deep].mean():+.4f}" for added_SL in added.values())))
    using = found.layers_using
    return [
        f"{found.title}: loss {found.loss:.4f} over {sum(found.tokens.values()):,} tokens of {len(found.tokens)} "
        f"domains",
        *aligned(rows, right=range(1, 3)),
        f"distinct experts of a token over {found.num_layers} layers: {found.distinct[-1]:.1%}",
        f"layers that use an expert: {sum(using) / len(using):.2f} in the mean; of {len(using)} experts "
        f"{using.count(0)} are used by none, {using.count(1)} by one",
    ]


def _mean_and_spread(values: Any) -> str:
    """Format the mean over seeds, with the standard deviation if there are several, as the header says."""
    spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():+.4f}{spread}"
