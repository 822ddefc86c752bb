"""Weights & Biases and MLflow. They write into the run directory; with ``log.online`` they send instead.

A tracker that fails does not end a run: the error is a warning, once, and the run continues without it.
"""

from __future__ import annotations

import os
import secrets
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Self

from unipool_dist.base.console import say
from unipool_dist.base.printable import printable
from unipool_dist.base.reading import read_text
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.writing import replace_text
from unipool_dist.errors import ConfigError
from unipool_dist.observe.sink import Numbers, ScalarSink, SinkStart

_VARIABLES = {
    # The libraries do not report their own use and errors to their makers.
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow writes plain files only if asked to; a database would need its full package.
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
_PARAMETERS_AT_ONCE = 100  # MLflow's limit


class Tracker(ScalarSink):
    """A tracker. Subclasses say what to call; their errors are warnings."""

    package: str

    def __init__(self) -> None:
        self._is_open = False

    @classmethod
    def open(cls, start: SinkStart) -> Self:
        """Begin a run at the tracker, or continue the one that this run directory has begun.

        Raises:
            ConfigError: its package is not installed.
        """
        tracker = cls()
        with _environment(_VARIABLES):
            try:
                import_module(cls.package)
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"log.sinks: {cls.package} is not installed ({error}); pip install 'unipool-dist[{cls.package}]'"
                ) from None
            tracker._is_open = True
            tracker._call(lambda: tracker.begin(start))
        return tracker

    def scalars(self, step: int, values: Numbers) -> None:
        self._call(lambda: self.log(step, {name: float(value) for name, value in values.items()}))

    def close(self) -> None:
        self._call(self.end)
        self._is_open = False

    def _call(self, function: Callable[[], None]) -> None:
        if not self._is_open:
            return
        try:
            function()
        except Exception as error:  # whatever the library raises: the network, a quota, faults of its own
            self._is_open = False
            reason = printable(f"{type(error).__name__}: {error}")
            say(f"warning: {self.package} failed, the run continues without it: {reason}", err=True)

    @abstractmethod
    def begin(self, start: SinkStart) -> None:
        """Begin or continue a run of the tracker."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take one point of each curve."""

    @abstractmethod
    def end(self) -> None:
        """Write out everything."""


class WandbSink(Tracker):
    """Weights & Biases: files in ``RUN/wandb``, to be sent later by ``wandb sync``; with ``log.online``, the server."""

    package = "wandb"

    def begin(self, start: SinkStart) -> None:
        import wandb

        log = start.config.log
        self._run: Any = wandb.init(
            mode="online" if log.online else "offline",
            dir=start.run_dir,
            project=log.project,
            name=start.run_dir.name,
            id=_run_id(start),
            resume="allow",
            config=start.config.model_dump(mode="json"),
            # The numbers of the run and its configuration, and nothing else of the machine or of its files.
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("*", step_metric="step")  # records of a save may come after those of later steps

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def end(self) -> None:
        import wandb

        self._run.finish()
        wandb.teardown()  # the process that it has started


class MlflowSink(Tracker):
    """MLflow: files in ``RUN/mlflow``; with ``log.online``, the server that ``MLFLOW_TRACKING_URI`` names."""

    package = "mlflow"

    def begin(self, start: SinkStart) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        log, folder = start.config.log, RunDirectory(start.run_dir).mlflow
        self._client: Any = MlflowClient(None if log.online else folder.absolute().as_uri())
        found = self._client.get_experiment_by_name(log.project)
        experiment = self._client.create_experiment(log.project) if found is None else found.experiment_id
        tag = {"unipool_dist.run": _run_id(start)}
        same = self._client.search_runs([experiment], f"tags.`unipool_dist.run` = '{tag['unipool_dist.run']}'")
        if same:
            self._id = same[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        self._id = self._client.create_run(experiment, tags=tag, run_name=start.run_dir.name).info.run_id
        fields = [Param(name, value) for name, value in _flat(start.config.model_dump(mode="json")).items()]
        for first in range(0, len(fields), _PARAMETERS_AT_ONCE):
            self._client.log_batch(self._id, params=fields[first : first + _PARAMETERS_AT_ONCE])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def end(self) -> None:
        self._client.set_terminated(self._id)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the body, where the user has not set them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _run_id(start: SinkStart) -> str:
    """Return the trackers' name of this run, the same whenever it is resumed: kept in ``RUN/tracker_id.txt``."""
    path = RunDirectory(start.run_dir).tracker_id
    if start.resume_from_step is not None and path.is_file():
        return read_text(path).strip()
    name = secrets.token_hex(8)
    replace_text(path, f"{name}\n")
    return name


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the fields of nested sections by their full names."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": str(value)}
    return flat
