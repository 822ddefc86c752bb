"""docs/profile.md, made from the profile's fields.

``python -m unipool_dist.jobs.profile_reference > docs/profile.md`` rewrites it.
"""

from __future__ import annotations

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from unipool_dist.base.console import put
from unipool_dist.config.fields import allowed
from unipool_dist.jobs.profile import Container, Profile

_INTRODUCTION = """\
# Profile of a cluster

<!-- Written by `python -m unipool_dist.jobs.profile_reference`; edit unipool_dist/jobs/profile.py instead. -->

What a job needs to know of a cluster, in a YAML file that `unipool-dist submit` takes with `--profile FILE` or from the
variable `UNIPOOL_DIST_PROFILE`. Start from [slurm/profiles/example.yaml](../slurm/profiles/example.yaml). Every field
may be left out; unknown ones are errors.
"""


def reference_markdown() -> str:
    """Return the whole of docs/profile.md."""
    return "\n".join([_INTRODUCTION, _table(Profile, ""), "## `container`\n", _table(Container, "container.")])


def _table(part: type[BaseModel], prefix: str) -> str:
    rows = ["| field | default | allowed | meaning |", "|---|---|---|---|"]
    for name, field in part.model_fields.items():
        required = field.default is PydanticUndefined
        default = "" if required else f"`{yaml.safe_dump(field.default).removesuffix('...' + chr(10)).strip()}`"
        kind = "a mapping, see below" if name == "container" else allowed(field.annotation, field.metadata)
        cells = (f"`{prefix}{name}`", default, kind, field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    put(reference_markdown())
