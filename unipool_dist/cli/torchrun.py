"""``unipool-dist torchrun``: torchrun, with this program's handling of signals and exit statuses."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import click

from unipool_dist.comm.network import route_to
from unipool_dist.errors import CommunicationError

DEFAULT_PORT = 29500
_LOOPBACK = "127.0.0.1"


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="",
    name="torchrun",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION OF TORCHRUN ...] PROGRAM ...")
def torchrun(arguments: tuple[str, ...]) -> None:
    """Start one node's processes of a run; once on every node.

    Takes what torchrun takes and gives the processes the same environment. Unlike torchrun it passes SIGTERM, SIGINT,
    SIGUSR1 and SIGHUP on to them as a request to stop, and ends with status 75 if they do.

    \b
    unipool-dist torchrun --nnodes 2 --node-rank 1 --master-addr node0 \\
        --nproc-per-node 8 -m unipool_dist train configs/small.yaml
    """
    from torch.distributed import DistError
    from torch.distributed.run import determine_local_world_size, parse_args, run

    from unipool_dist.run.launch import AGENT_SIGNALS, import_safely, run_agent
    from unipool_dist.run.local_folder import local_folder

    options = parse_args(arguments)
    options.signals_to_handle = AGENT_SIGNALS
    ours = options.module and options.training_script == "unipool_dist"
    if ours:
        import_safely()
    with local_folder() as folder:
        options.log_dir = options.log_dir or str(folder)
        if options.standalone or options.nnodes in ("1", "1:1"):
            _stay_on_this_machine(options, folder, serves=not ours)
        elif options.rdzv_backend == "static" and not options.rdzv_endpoint:
            # Of the addresses that a name has, not all need to be reachable from here.
            name = options.master_addr.removeprefix("[").removesuffix("]")
            options.master_addr = route_to(name, options.master_port or DEFAULT_PORT).meeting
        try:
            run_agent(lambda: run(options), determine_local_world_size(options.nproc_per_node), hold=ours)
        except DistError as error:
            raise CommunicationError(_not_met(options, str(error))) from error


def _stay_on_this_machine(options: Namespace, folder: Path, *, serves: bool) -> None:
    """Replace what ``options`` say of a rendezvous by a private one: a run of one node has no other to meet."""
    from unipool_dist.run.local_rendezvous import BACKEND, settings_of

    options.standalone, options.nnodes, options.node_rank = False, "1", 0
    options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = BACKEND, _LOOPBACK, "unipool-dist"
    options.rdzv_conf = ",".join(f"{name}={value}" for name, value in settings_of(folder, serves=serves).items())


def _not_met(options: Namespace, reason: str) -> str:
    meeting = options.rdzv_endpoint or f"--master-addr={options.master_addr} --master-port={options.master_port}"
    if "EADDRINUSE" in reason:
        return f"{meeting}: another program on this node has this port; choose a free one"
    return (
        f"the nodes of the run, --nnodes={options.nnodes}, did not meet at {meeting} "
        f"({reason.strip().splitlines()[0]}); start the launcher once on every node, and see whether all nodes can "
        f"reach this address"
    )
