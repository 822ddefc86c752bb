"""The valid things that inputs are spoilt copies of: a corpus, a run of two checkpoints, an exported model."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from tests.fuzz.forked import call
from tests.fuzz.inputs import Material
from tests.fuzz.place import Place
from tests.support.runs import TINY_RUN, write_sources
from unipool_dist.cli import COMMANDS, main

_RUN = ("model.num_layers=2", "model.hidden_size=16", "model.ffn_hidden_size=16", "model.num_attention_heads=2")
_POOL = (
    "pool.num_experts=4",
    "train.steps=4",
    "checkpoint.interval=2",
    "train.eval_sequences=2",
    "log.tensorboard=false",
)


def command_line(*arguments: str) -> None:
    """What ``unipool-dist`` does with these arguments; ends like it."""
    sys.argv = ["unipool-dist", *arguments]
    main()


def made(root: Path) -> Material:
    """Make the material in ``root``; import what the commands import, for all children from now on.

    Raises:
        RuntimeError: a command does not do what it should.
    """
    for module, _ in COMMANDS.values():
        import_module(module)
    place = Place(root)
    place.clear()
    write_sources(place.folder)
    (place.folder / "empty.yaml").write_text("{}\n")
    sources = ("--source=prose=prose.txt", "--source=sums=sums.txt", "--vocab-size=320")
    overrides = (*TINY_RUN, *_RUN, *_POOL, f"data.path={place.folder / 'corpus'}", "run.dir=run")
    for arguments in (
        ("data", "prepare", "corpus", *sources),
        ("train", "empty.yaml", *overrides),
        ("checkpoint", "export", "run", "exported"),
        ("checkpoint", "import", "exported", "imported"),
        ("checkpoint", "reshard", "run", "resharded"),
        ("generate", "run", "--prompt=a", "--max-tokens=1"),
        ("report", "run"),
        ("submit", "run/config.yaml", "--nodes=1", "--tasks-per-node=1", "--time=60", "--dry-run"),
    ):
        _done(arguments, place)
    return Material(place.folder / "corpus", place.folder / "run", place.folder / "exported")


def _done(arguments: tuple[str, ...], place: Place) -> None:
    """Call a command in a child, and import the modules that it has imported."""
    imported = place.folder / "imported.txt"

    def work() -> None:
        try:
            command_line(*arguments)
        finally:
            imported.write_text("\n".join(sys.modules))

    outcome = call(work, place)
    if outcome.status != 0:
        raise RuntimeError(f"{' '.join(arguments)}: {outcome.ended_by or outcome.status}\n{outcome.stderr.decode()}")
    for name in imported.read_text().splitlines():
        with suppress(Exception):  # some go by another name than that by which they are imported
            import_module(name)
