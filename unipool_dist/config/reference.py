"""docs/configuration.md, made from the sections.

``python -m unipool_dist.config.reference > docs/configuration.md`` rewrites it.
"""

from __future__ import annotations

import yaml
from pydantic import BaseModel

from unipool_dist.base.console import put
from unipool_dist.config.fields import allowed, fields_of, is_section
from unipool_dist.config.roles import Role, is_for_inference, may_change_by_stages, role_of
from unipool_dist.config.sections import Config

_INTRODUCTION = """\
# Configuration

<!-- Written by `python -m unipool_dist.config.reference`; edit unipool_dist/config/sections.py instead. -->

A run is configured by a YAML file of the sections below; what is left out takes its default. On the command line,
`section.field=value` overrides the file. With `base: FILE` at its top, a file only says what differs from another one,
whose path is relative to it; configs/paper does so, and `unipool-dist model CONFIG --resolved` shows the whole.
All other paths are relative to the directory in which a command is started.

An override means what its text says for the type of the field, or is refused:

- *text*: as typed, `#`, `:` and digits included (`run.dir=runs/a #2`). Quotes around the whole are taken off, and
  `null` means none where that is allowed. `~` at the beginning is refused, as no shell has expanded it there.
- *a number*: decimal, whatever zeros it begins with: `train.seed=010` is 10; `1_000`, `1e-3`.
- *true or false*: also `yes`, `no`, `on` and `off`, as in YAML 1.1.
- *a list, a mapping, a section, null*: YAML on one line, without a comment: `data.weights={web: 2}`.

Files are YAML of one document with plain values. A key that is there twice is an error, and so is a number that YAML
1.1 reads as another one than it looks like (`0100`, `1:40`, `0b11`): write it in decimal, or in quotes if it is text.
Dates, `yes` and `on` are text where text is expected. Aliases (`*a`) and merges (`<<`) work, as long as what they
expand to is not huge; tags (`!!str`) are refused. A file has at most 256 KiB, 20,000 values and a depth of 64. The same
holds for profiles and experiments.

Unknown fields and values outside their range are errors, all reported at once. `null` and `auto` are filled in when the
number of processes is known; sizes that contradict each other or that number are refused then, before any process group
is made. The configuration in its final form is written into the run directory.

## Roles

Every field has a role: what it decides, and so what happens when it changes. On resume, another value of a `shape` or
`fixed` field is refused, one of a `run` field is reported, and the others are free. Runs of an experiment that differ
in other than `split`, `layout` and `io` fields are different runs. A report warns of runs of one variant that differ in
other than `layout` and `io` fields and the seed. `inference` marks what may also be set for a trained model, by `eval`,
`generate` and `probe`; `stages` what may change during a run, by an entry of `stages` or, where a resume would be
refused, with `--allow` (docs/stages.md).

| role | what it decides |
|---|---|
"""


def reference_markdown() -> str:
    """Return the whole of docs/configuration.md."""
    parts = [_INTRODUCTION + "".join(f"| `{role.name.lower()}` | {role.value} |\n" for role in Role)]
    for name, field in fields_of(Config):
        section = field.annotation
        if is_section(section):
            parts.append(
                f"## `{name}`\n\n{(section.__doc__ or '').strip().replace('``', '`')}\n\n{_table(section, name)}"
            )
    parts.append(f"## Fields in no section\n\n{_table(Config, '')}")
    return "\n".join(parts)


def _table(section: type[BaseModel], prefix: str) -> str:
    rows = ["| field | role | default | allowed | meaning |", "|---|---|---|---|---|"]
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            continue
        default = yaml.safe_dump(field.default, default_flow_style=True).removesuffix("...\n").strip()
        uses = {"inference": is_for_inference(field), "stages": may_change_by_stages(field)}
        cells = (
            f"`{prefix}.{name}`" if prefix else f"`{name}`",
            ", ".join([role_of(field).name.lower(), *(use for use, marked in uses.items() if marked)]),
            f"`{default}`",
            allowed(field.annotation, field.metadata),
            field.description or "",
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    put(reference_markdown())
