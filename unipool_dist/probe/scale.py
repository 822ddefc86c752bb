"""The axis for losses added by random routing."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from unipool_dist.observe.usage import Floats

LINEAR_BELOW = 0.01
_LINEAR_UP_TO = 20.0


def is_logarithmic(added: Floats) -> bool:
    """Return whether some of ``added`` (nats per token) would be invisible on a linear scale.

    One layer can cost a hundred times as much as another; anything below ``LINEAR_BELOW`` counts as small.
    """
    return bool(added.max() > _LINEAR_UP_TO * max(np.abs(added).min(), LINEAR_BELOW))


def scale_added(axes: Axes, logarithmic: bool) -> str:
    """Set the scale of the y axis; return its label."""
    if logarithmic:
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
    return "loss added (nats per token" + (f";\nlogarithmic beyond {LINEAR_BELOW:g})" if logarithmic else ")")
