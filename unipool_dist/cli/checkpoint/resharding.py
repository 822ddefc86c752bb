"""``unipool-dist checkpoint reshard``: the same checkpoint in another number of files."""

from __future__ import annotations

from pathlib import Path

import click

from unipool_dist.base.belongings import refuse
from unipool_dist.base.console import say
from unipool_dist.base.progress_bars import byte_bar
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.units import counted, size
from unipool_dist.checkpoint.offline.locate import check_contents
from unipool_dist.cli.checkpoint.common import (
    find,
    json_option,
    print_json,
    run_argument,
    step_option,
)
from unipool_dist.cli.option_types import PROCESSES
from unipool_dist.config import dump_config
from unipool_dist.run.beginning import in_the_way
from unipool_dist.run.lock import RunLock


@click.command()
@run_argument
@click.argument("out", type=click.Path(path_type=Path))
@step_option
@click.option(
    "--files",
    "num_files",
    type=PROCESSES,
    default=1,
    show_default=True,
    help="Files to make of the tensors.",
)
@json_option
def reshard(run: Path, out: Path, step: int | None, num_files: int, as_json: bool) -> None:
    """Copy a checkpoint of RUN into the run directory OUT with its tensors cut into --files files of equal size.

    Changing the layout does not need this: every layout resumes every checkpoint as it is. Its only use is the number
    of files, one for each rank that wrote the checkpoint: after a run on thousands of ranks these can be more than a
    file system or a copy handles well.

    The checkpoint is verified first. `unipool-dist train CONFIG run.dir=OUT --resume` continues from the copy.
    """
    from unipool_dist.checkpoint.offline.reshard import check_step_is_free
    from unipool_dist.checkpoint.offline.reshard import reshard as reshard_checkpoint

    located = find(run, step)
    refuse(in_the_way(out, resume=True), f"writing into {out}")
    check_step_is_free(located, out)
    check_contents(located, byte_bar)
    with RunLock(out):
        directory = reshard_checkpoint(located, out, num_files, byte_bar)
        # Without it `train` would take OUT for an empty directory, and delete its checkpoints unless it is to resume.
        if not RunDirectory(out).config.exists():
            of_out = located.config.run.model_copy(update={"dir": str(out)})
            dump_config(located.config.model_copy(update={"run": of_out}), RunDirectory(out).config)
    folder = directory.folder(located.progress.step)
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    if as_json:
        print_json(
            {
                "step": located.progress.step,
                "from": located.folder,
                "path": folder,
                "files": num_files,
                "bytes": num_bytes,
            }
        )
    else:
        say(f"{folder}: step {located.progress.step}, {size(num_bytes)} in {counted(num_files, 'file')} of tensors")
