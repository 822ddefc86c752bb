"""The form in which a model is exported: the names of its tensors, and what is written with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from unipool_dist.checkpoint.huggingface.names import Public, Rows
from unipool_dist.checkpoint.offline.export_format import ExportRecord
from unipool_dist.config import Plan
from unipool_dist.model.families import inventory


class Form(Protocol):
    """How tensors are called, and which files go with them."""

    def tensors(self, plan: Plan) -> list[Public]:
        """Return the tensors of a model as the files have them.

        Raises:
            CheckpointError: the model cannot have this form.
        """

    def describe(self, folder: Path, plan: Plan, record: ExportRecord) -> tuple[Sequence[str], str | None]:
        """Write further files into ``folder``; return their names and, if the tokenizer is missing, the reason."""


class OwnForm:
    """The form of this project: tensors by their own names, no further files."""

    def tensors(self, plan: Plan) -> list[Public]:
        """Return the tensors as the inventory lists them."""
        return [
            Public(spec.name, spec.shape, spec.dtype, ((spec, Rows(0, spec.shape[0], spec.name, None, 0)),))
            for spec in inventory(plan)
        ]

    def describe(self, folder: Path, plan: Plan, record: ExportRecord) -> tuple[Sequence[str], str | None]:
        """Write nothing more."""
        return (), None


OWN_FORM = OwnForm()
