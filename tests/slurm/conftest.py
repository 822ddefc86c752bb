"""One cluster for all tests of this folder, well at the start of each of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.machines import ClusterError
from tests.slurm.submitted import RECOVERIES, table

NUM_NODES = 4


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of four nodes; without root, and where it does not start, the session ends with the reason."""
    found = Cluster(Path(tempfile.gettempdir()) / f"unipool-slurm-{os.getpid()}")
    try:
        found.start(NUM_NODES)
    except ClusterError as error:
        pytest.exit(str(error), returncode=2)
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(autouse=True)
def well(cluster: Cluster) -> Iterator[None]:
    """After each test all jobs are gone, and all nodes are back."""
    yield
    cluster.heal()


@pytest.fixture(scope="session")
def corpus(cluster: Cluster, tiny_corpus: Path) -> Path:
    """The tiny corpus where every user of every node reads it, and root alone writes."""
    folder = cluster.shared / "corpus"
    shutil.copytree(tiny_corpus, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture
def shared(cluster: Cluster, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own that every user of every node reads and writes; pytest's tmp_path is on no node."""
    folder = Path(tempfile.mkdtemp(prefix=f"{request.function.__name__}-", dir=cluster.shared))
    folder.chmod(0o777)
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failed test what its jobs and the controller said."""
    report = yield
    cluster: Any = getattr(item, "funcargs", {}).get("cluster")
    if cluster is not None and report.failed:
        for job in cluster.jobs()[-3:]:
            report.sections.append((f"job {job.id}", cluster.describe(job)))
        controller = cluster.controller_log().splitlines()[-40:]
        report.sections.append(("slurmctld", "\n".join(controller)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long the runs took to come back from each fault."""
    if RECOVERIES:
        terminalreporter.section("seconds from a fault until the job was requeued, its tasks restarted, and training")
        terminalreporter.write("\n".join(table()) + "\n")
