"""``python -m unipool_dist`` is ``unipool-dist``."""

from unipool_dist.cli import main

if __name__ == "__main__":
    main()
