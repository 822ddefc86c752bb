"""``unipool-dist torchrun``: torchrun, with this program's manners towards signals and exit statuses."""

from __future__ import annotations

from argparse import Namespace

import click

from unipool_dist.errors import CommunicationError
from unipool_dist.topology.network import route_to

DEFAULT_PORT = 29500


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="",
    name="torchrun",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION OF TORCHRUN ...] PROGRAM ...")
def torchrun(arguments: tuple[str, ...]) -> None:
    """Start one node's processes of a run; once on every node.

    Takes what torchrun takes and gives the processes the same environment. Unlike torchrun it passes SIGTERM, SIGINT
    and SIGUSR1 on to them as a request to stop, and ends with status 75 if they do.

    \b
    unipool-dist torchrun --nnodes 2 --node-rank 1 --master-addr node0 \\
        --nproc-per-node 8 -m unipool_dist train configs/small.yaml
    """
    from torch.distributed import DistError
    from torch.distributed.run import determine_local_world_size, parse_args, run

    from unipool_dist.cli.launch import AGENT_SIGNALS, run_agent

    options = parse_args(arguments)
    options.signals_to_handle = AGENT_SIGNALS
    several_nodes = options.nnodes not in ("1", "1:1") and not options.standalone
    if several_nodes and options.rdzv_backend == "static" and not options.rdzv_endpoint:
        # Of the addresses that a name has, not all need to be reachable from here.
        name = options.master_addr.removeprefix("[").removesuffix("]")
        options.master_addr = route_to(name, options.master_port or DEFAULT_PORT).meeting
    ours = options.module and options.training_script == "unipool_dist"
    try:
        run_agent(lambda: run(options), determine_local_world_size(options.nproc_per_node), hold=ours)
    except DistError as error:
        raise CommunicationError(_not_met(options, str(error))) from error


def _not_met(options: Namespace, reason: str) -> str:
    meeting = options.rdzv_endpoint or f"--master-addr={options.master_addr} --master-port={options.master_port}"
    if "EADDRINUSE" in reason:
        return f"{meeting}: another program on this node has this port; choose a free one"
    return (
        f"the nodes of the run, --nnodes={options.nnodes}, did not meet at {meeting} "
        f"({reason.strip().splitlines()[0]}); start the launcher once on every node, and see whether all nodes can "
        f"reach this address"
    )
