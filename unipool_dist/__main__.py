"""``python -m unipool_dist`` is ``unipool-dist``."""

import sys
from pathlib import Path


def _import_safely() -> None:
    """Forget the current directory, where ``python -m`` looks for modules first: whatever is there is not ours.

    Unless it is where this package is, as in a working tree that is not installed.
    """
    if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).parents[1]:
        del sys.path[0]


if __name__ == "__main__":
    _import_safely()
    from unipool_dist.cli import main

    main()
