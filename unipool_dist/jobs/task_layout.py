"""How many tasks a run starts on the available nodes: as many as give a legal layout. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unipool_dist.config import Config, outline
from unipool_dist.config.describe import describe_layout, describe_owners
from unipool_dist.config.plan import Outline
from unipool_dist.errors import TopologyError, UnipoolError


@dataclass(frozen=True)
class Layout:
    """Tasks on nodes."""

    nodes: tuple[str, ...]
    num_tasks: int
    tasks_per_node: int
    """Tasks on each node; the last one may have fewer."""
    plan: Outline
    """For this many tasks."""

    def describe(self) -> str:
        """Describe the layout in one line."""
        plural = "s" if len(self.nodes) > 1 else ""
        return f"{describe_layout(self.plan)} on {len(self.nodes)} node{plural}; {describe_owners(self.plan)}"


def choose_layout(
    config: Config, nodes: Sequence[str], tasks_per_node: int, *, whole_nodes: bool = False, from_step: int = 1
) -> Layout:
    """Choose the layout with the most tasks that ``nodes`` can hold; with ``parallel.dp: auto`` choose dp.

    Nodes are filled in their order, so those that are not needed are the last. ``whole_nodes``: every node that is
    used has equally many tasks. ``from_step``: the step that is trained next; what is over need not fit.

    Raises:
        TopologyError, ConfigError: nothing fits; why the smallest layout does not.
    """
    unit = config.parallel.pp * config.parallel.tp
    available = len(nodes) * tasks_per_node
    if config.parallel.dp == "auto":
        candidates = list(range(available - available % unit, 0, -unit)) or [available]
    else:
        candidates = [unit * config.parallel.dp if unit * config.parallel.dp <= available else available]
    refusal: UnipoolError | None = None
    for num_tasks in candidates:
        try:
            plan = outline(config, num_tasks, from_step=from_step)
        except UnipoolError as error:
            refusal = error
            continue
        num_nodes = -(-num_tasks // tasks_per_node)
        if whole_nodes and num_tasks % num_nodes:
            refusal = refusal or TopologyError(
                f"{num_tasks} processes cannot be split evenly over {num_nodes} nodes of {tasks_per_node}, which "
                f"launcher: torchrun needs; use launcher: srun in the profile"
            )
            continue
        return Layout(tuple(nodes[:num_nodes]), num_tasks, tasks_per_node, plan)
    assert refusal is not None
    raise refusal
