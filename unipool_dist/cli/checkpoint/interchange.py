"""``unipool-dist checkpoint export`` and ``import``: a model out of a run, and a run that begins with a model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from unipool_dist.base.belongings import refuse
from unipool_dist.base.console import say
from unipool_dist.base.progress_bars import byte_bar
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.units import counted, size
from unipool_dist.checkpoint.finding import is_checkpoint_folder
from unipool_dist.checkpoint.offline.locate import Located, check_contents
from unipool_dist.cli.checkpoint.common import (
    find,
    json_option,
    print_json,
    run_argument,
    step_option,
    trust_option,
)
from unipool_dist.cli.option_types import Finite
from unipool_dist.errors import UnipoolError
from unipool_dist.run.beginning import in_the_way
from unipool_dist.run.lock import RunLock

if TYPE_CHECKING:
    from unipool_dist.checkpoint.huggingface.config_json import ClassName
    from unipool_dist.checkpoint.huggingface.folder import HuggingFaceForm
    from unipool_dist.checkpoint.offline.export_format import Dtype
    from unipool_dist.checkpoint.offline.incoming import Incoming


@click.command()
@run_argument
@click.argument("out", type=click.Path(path_type=Path))
@step_option
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Type of the weights; routers stay in fp32, as in training.",
)
@click.option(
    "--max-shard-size-gb",
    type=Finite(min=0, min_open=True, max=1e9),
    default=5.0,
    show_default=True,
    help="Weights in one file, in 10^9 bytes; also what the export needs in memory.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["own", "hf"]),
    default="own",
    show_default=True,
    help="own: tensors by the names of this project; hf: as transformers loads it.",
)
@click.option(
    "--as",
    "class_name",
    type=click.Choice(["unipool", "llama", "mixtral"]),
    default="unipool",
    show_default=True,
    help="With --format hf, its class: one that comes with it, or one of transformers that computes the same.",
)
@trust_option
@json_option
def export(
    run: Path,
    out: Path,
    step: int | None,
    dtype: str,
    max_shard_size_gb: float,
    form: str,
    class_name: str,
    as_json: bool,
) -> None:
    """Write the model in a checkpoint of RUN to the new directory OUT.

    \b
    OUT/model.safetensors     the weights, or model-00001-of-0000N.safetensors and
                              model.safetensors.index.json
    OUT/config.yaml           the run's configuration
    OUT/export.json           step, type, tokenizer, versions, and the files' hashes
    OUT/tokenizer.model       or encoder.json and vocab.bpe: the corpus's tokenizer,
                              if data.path still has it

    \b
    With --format hf also
    OUT/config.json, generation_config.json, README.md (the model card)
    OUT/tokenizer.json        and tokenizer_config.json
    OUT/modeling_unipool.py   unless --as names a class of transformers

    so that AutoModelForCausalLM.from_pretrained(OUT, trust_remote_code=True) loads it; see docs/models.md.

    The checkpoint is verified first. OUT is whole or absent.
    """
    from unipool_dist.checkpoint.offline.export import check_free, export_model, planned
    from unipool_dist.checkpoint.offline.export_forms import OWN_FORM

    if form == "own" and class_name != "unipool":
        raise click.UsageError("--as is for --format hf")
    check_free(out)
    located = find(run, step)
    chosen = _huggingface_form(located, cast("ClassName", class_name)) if form == "hf" else OWN_FORM
    chosen.tensors(planned(located))  # refuses before the checkpoint is read
    check_contents(located, byte_bar)
    shard_bytes = round(max_shard_size_gb * 1e9)
    record, missing = export_model(located, out, cast("Dtype", dtype), shard_bytes, byte_bar, chosen)
    num_bytes = sum(file.num_bytes for file in record.files.values())
    if as_json:
        print_json({"path": out, "bytes": num_bytes, "tokenizer_missing": missing, **record.model_dump(mode="json")})
        return
    say(
        f"{out}: step {record.step}, {record.num_parameters:,} parameters in {record.dtype}, {size(num_bytes)} in "
        f"{counted(len(record.files), 'file')} of weights"
    )
    say(f"tokenizer: {', '.join(record.tokenizer_files)}" if not missing else f"no tokenizer: {missing}")


def _huggingface_form(located: Located, class_name: ClassName) -> HuggingFaceForm:
    """Return the form, with the losses that the run recorded at the checkpoint's step, where it is in a run."""
    from unipool_dist.checkpoint.huggingface.folder import HuggingFaceForm
    from unipool_dist.report.runs import read_run

    try:
        recorded = dict(read_run(located.folder.parents[1], "", 0).evaluations)
    except UnipoolError:  # a card without losses is better than none
        recorded = {}
    return HuggingFaceForm(class_name, recorded.get(located.progress.step))


@click.command("import")
@click.argument("source", metavar="MODEL|RUN", type=click.Path(path_type=Path))
@click.argument("run", metavar="NEW_RUN", type=click.Path(path_type=Path))
@click.argument("overrides", metavar="[SECTION.FIELD=VALUE ...]", nargs=-1)
@step_option
@click.option(
    "--upcycle",
    is_flag=True,
    help="MODEL is dense, and its FFNs become the experts of the pools that pool.*=VALUE describe.",
)
@click.option(
    "--noise",
    type=Finite(min=0, max=1e3),
    default=0.0,
    show_default=True,
    help="With --upcycle, noise on each expert's matrices, over their standard deviation.",
)
@trust_option
@json_option
def import_(
    source: Path,
    run: Path,
    overrides: tuple[str, ...],
    step: int | None,
    upcycle: bool,
    noise: float,
    as_json: bool,
) -> None:
    """Make NEW_RUN a run that begins with the weights in MODEL, or of a checkpoint of RUN.

    MODEL was written by `export`, or is a model for transformers in safetensors: one that `export --format hf` wrote,
    also after it was trained further elsewhere, or a Llama, Mistral or Mixtral. Nothing in it is executed, and what has
    no equal here is named before anything is written (docs/models.md).

    `unipool-dist train NEW_RUN/config.yaml --resume=must` then starts at step 1 with these weights, without optimizer
    states, at the start of the schedule, on any corpus with the same tokenizer (`data.path=DIRECTORY`) and on any
    layout. Another CONFIG must describe a model of the same shape. SECTION.FIELD=VALUE, for a MODEL, goes into
    NEW_RUN/config.yaml.
    """
    from unipool_dist.checkpoint.offline.import_model import (
        check_is_no_run,
        import_checkpoint,
        import_model,
        num_parameters,
    )

    if noise and not upcycle:
        raise click.UsageError("--noise is for --upcycle")
    check_is_no_run(run)
    refuse(in_the_way(run, resume=True), f"importing into {run}")
    if not is_checkpoint_folder(source) and not RunDirectory(source).checkpoints.is_dir():
        if step is not None:
            raise click.UsageError("--step chooses a checkpoint of a run; an export has only one model")
        model = _model(source, overrides, upcycle, noise)
        parameters, write = model.num_parameters, partial(import_model, model)
    else:
        if overrides or upcycle:
            raise click.UsageError("SECTION.FIELD=VALUE and --upcycle are for a MODEL; export the run first")
        located = find(source, step)
        check_contents(located, byte_bar)
        parameters, write = num_parameters(located.config), partial(import_checkpoint, located)
    with RunLock(run):
        folder = write(run, byte_bar).folder(0)
    if as_json:
        print_json({"run": run, "path": folder, "step": 0, "parameters": parameters, "from": source})
    else:
        say(f"{run}: step 0 with the {parameters:,} parameters of {source}")
        say(f"next: unipool-dist train {run}/config.yaml --resume=must data.path=DIRECTORY")


def _model(source: Path, overrides: tuple[str, ...], upcycle: bool, noise: float) -> Incoming:
    """Open the model that the new run is to begin with."""
    from unipool_dist.checkpoint.offline.import_model import open_model
    from unipool_dist.checkpoint.offline.upcycling import upcycled

    if not upcycle:
        return open_model(source, overrides, byte_bar)
    of_pool = [each for each in overrides if each.startswith("pool.")]
    dense = open_model(source, [each for each in overrides if each not in of_pool], byte_bar)
    return upcycled(dense, of_pool, noise)
