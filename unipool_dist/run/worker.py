"""One process of a run: trains its part, or says clearly why it stops."""

from __future__ import annotations

import sys

from unipool_dist.comm.environment import read_environment
from unipool_dist.config import Config
from unipool_dist.resilience.signals import StopSignals
from unipool_dist.run.ending import ending_clearly
from unipool_dist.run.session import train_session
from unipool_dist.run.start import Start


def run_worker(config: Config, start: Start, signals: StopSignals) -> None:
    """Run this process's part of training. Exits with status 75 if the run was stopped and its state is saved."""
    environment = read_environment()
    signals.rank = environment.rank
    with ending_clearly(environment, config):
        status = train_session(config, environment, start, signals)
    if status:
        sys.exit(status)
