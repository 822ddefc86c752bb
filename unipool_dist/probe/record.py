"""``RUN/probe/probe.json``: the results of a probe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from unipool_dist.base.belongings import exists, foreign, refuse
from unipool_dist.base.forms import is_png
from unipool_dist.base.reading import read_json
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.writing import replace_text
from unipool_dist.errors import UnipoolError
from unipool_dist.observe.files import is_our_figure, naming
from unipool_dist.observe.usage import Counts, Floats
from unipool_dist.run.own_files import IS_PROBE, PROBE_FIGURES

FORMAT_VERSION = 1
MATCHED = 8
"""Experts of the matched form, as many as the layers of the paper's ordinary MoE have."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Randomized(_Record):
    """Losses (nats per token) with one layer's experts drawn from ``candidates`` instead of chosen by its router."""

    candidates: list[list[int]]
    """By layer, the experts drawn from, by their number within the layer's pool."""
    loss: list[list[float]]
    """[seed][layer], over all domains, every token counting the same."""
    domains: dict[str, list[list[float]]]

    def added_to(self, loss: float) -> Floats:
        """Return the losses over all domains less ``loss``, float64 [seeds, L]."""
        return np.array(self.loss) - loss


class Probe(_Record):
    """Results of a probe. Experts have global ids: expert e of pool g is ``g * num_experts + e``."""

    format_version: int = FORMAT_VERSION
    run: str
    """Name of the run in figures, see :func:`unipool_dist.observe.files.name_of`."""
    step: int
    num_layers: int
    num_pools: int
    num_experts: int
    """Experts in one pool."""
    top_k: int
    corpus: str
    """Hash of the corpus's content."""
    tokens: dict[str, int]
    """By domain, tokens predicted."""
    loss: float
    """Loss with the router's own choices, over all domains; nats per token."""
    domains: dict[str, float]
    """The same for each domain."""
    randomized: dict[str, Randomized]
    """``pool``: over the layer's whole pool; ``matched``: over the :data:`MATCHED` experts that it uses most, where
    there are more."""
    distinct: list[float]
    """[layer]: distinct experts that a token has met over experts it was sent to, from the first layer to this."""
    counts: dict[str, list[list[int]]]
    """By domain, [layer][expert]: how often it was chosen."""
    layers_using: list[int]
    """[expert]: layers that make at least ``1 / (2 G)`` of its choices, G being the layers of its pool."""
    lift: list[list[float | None]]
    """[domain][expert]: its share of the domain's choices over the mean of its shares in all domains; null: in none."""

    @property
    def has_one_form(self) -> bool:
        """Whether the pool has no more experts than the matched form draws from, so that both forms are ``pool``."""
        return "matched" not in self.randomized

    def in_form(self, form: str) -> Randomized:
        """Return ``pool`` or ``matched``, which are the same where :attr:`has_one_form`."""
        return self.randomized["pool" if self.has_one_form else form]

    @property
    def all_counts(self) -> Counts:
        """int64 [L, E], over all domains."""
        return np.array([*self.counts.values()], dtype=np.int64).sum(axis=0)

    @property
    def affinity(self) -> Floats:
        """float64 [C, E]: :attr:`lift`, with NaN for null."""
        return np.array(self.lift, dtype=np.float64)

    @property
    def layers_per_pool(self) -> int:
        return self.num_layers // self.num_pools

    @property
    def title(self) -> str:
        return f"{self.run}, step {self.step}"


def check_replaceable(run_dir: Path) -> None:
    """Refuse to replace files in RUN/probe that are not a probe's.

    Raises:
        ForeignError: there are some, or the folder cannot be made.
    """
    files = RunDirectory(run_dir)
    folder = files.probe
    if exists(folder) and not folder.is_dir():
        refuse([folder], f"probing {run_dir}")
    of_a_probe = is_png if exists(files.probe_record) else is_our_figure
    found = foreign(files.probe_record, IS_PROBE)
    found += [path for name in PROBE_FIGURES for path in foreign(folder / f"{name}.png", of_a_probe)]
    refuse(found, f"probing {run_dir}")


def write_probe(probe: Probe, run_dir: Path) -> Path:
    """Write RUN/probe/probe.json atomically; return its path.

    Raises:
        UnipoolError: it cannot be written.
    """
    path = RunDirectory(run_dir).probe_record
    with naming(path, "make room, or the run directory writable, and probe again"):
        path.parent.mkdir(exist_ok=True)
        replace_text(path, json.dumps(probe.model_dump(), allow_nan=False) + "\n")
    return path


def read_probe(run_dir: Path) -> Probe:
    """Read the probe of the run in ``run_dir``.

    Raises:
        UnipoolError: there is none, or it is damaged or of another version.
    """
    path = RunDirectory(run_dir).probe_record
    again = f"run `unipool-dist probe {run_dir}`"
    try:
        values = read_json(path)
        if values["format_version"] != FORMAT_VERSION:
            raise UnipoolError(
                f"{path} has format_version={values['format_version']}, this version reads {FORMAT_VERSION}; {again}"
            )
        return Probe.model_validate(values)
    except FileNotFoundError:
        raise UnipoolError(f"{run_dir} has not been probed: there is no {path}; {again} first") from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UnipoolError(f"{path} cannot be read: {type(error).__name__}; {again}") from None


def check_comparable(other: Probe, corpus: str, tokens: dict[str, int]) -> None:
    """Refuse to compare with ``other``, a probe of other text.

    Args:
        corpus: hash of its content.
        tokens: by domain, the number of predicted tokens.

    Raises:
        UnipoolError: corpora or sequences differ.
    """
    if (other.corpus, other.tokens) != (corpus, tokens):
        raise UnipoolError(
            f"{other.run} was probed on {sum(other.tokens.values()):,} tokens of corpus {other.corpus[:12]}, not on "
            f"the {sum(tokens.values()):,} of corpus {corpus[:12]} that are to be used now; probe both on the same "
            f"corpus with the same --sequences"
        )
