"""The axis on which losses added by random routing are drawn."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from unipool_dist.observe.usage import Floats

LINEAR_BELOW = 0.01
_LINEAR_UP_TO = 20.0


def is_logarithmic(added: Floats) -> bool:
    """Whether some of ``added`` (nats per token) would vanish beside others on a linear scale.

    One layer can cost a hundred times what another does; what is below ``LINEAR_BELOW`` is little in any case.
    """
    return bool(added.max() > _LINEAR_UP_TO * max(np.abs(added).min(), LINEAR_BELOW))


def scale_added(axes: Axes, logarithmic: bool) -> str:
    """Give the y axis its scale; return its label."""
    if logarithmic:
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
    return "loss added (nats per token" + (f";\nlogarithmic beyond {LINEAR_BELOW:g})" if logarithmic else ")")
