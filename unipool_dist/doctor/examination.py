"""One rank's part of an examination: from the rendezvous to the verdict."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NoReturn

import torch.distributed as dist
from pydantic import TypeAdapter

from unipool_dist.comm.environment import Environment
from unipool_dist.doctor.agenda import Settings, probes
from unipool_dist.doctor.council import Council, SilentRanksError
from unipool_dist.doctor.fact_checks import describe_nodes
from unipool_dist.doctor.fact_probe import FactsProbe
from unipool_dist.doctor.findings import Check, Report
from unipool_dist.doctor.measurement import NotMeasuredError, Probe
from unipool_dist.doctor.meeting import judge_meeting, missing_ranks, open_store
from unipool_dist.doctor.roster import Roster
from unipool_dist.doctor.shared_directory import RunDirectory
from unipool_dist.errors import CommunicationError

_MARGIN_S = 15.0
"""Beyond the timeout of collectives, for a rank that waits for one and then has to say so."""
_FAREWELL_S = 2.0
_VITAL = ("devices",)
"""Checks without which no process group can be made."""


class _EndedError(Exception):
    """Rank 0 has ended the examination."""

    def __init__(self, status: int, broken: bool, abandoned: bool) -> None:
        super().__init__(status)
        self.status, self.broken, self.abandoned = status, broken, abandoned


class Examination:
    """An examination together with the other ranks; all of them end with the same status.

    A probe that fails becomes a failed check, and the others continue; after a failed collective only those that need
    none. A rank that stops answering is named, and the examination ends.

    Args:
        publish: on rank 0, shows the report and returns the exit status.
        progress: on rank 0, called with what is measured next.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        publish: Callable[[Report], int],
        progress: Callable[[str], None],
    ) -> None:
        self._settings, self._environment, self._rank = settings, environment, environment.rank
        self._publish, self._progress = publish, progress
        self._started = time.monotonic()
        self._patience_s = settings.timeout_s + _MARGIN_S
        self._checks: list[Check] = []
        self._nodes: list[dict[str, Any]] = []
        self._broken = ""
        """On rank 0: why process groups are not used any more."""
        self.abandoned = False
        """Whether it ended because a rank no longer answered, which may not end by itself."""
        self._leaving = ExitStack()

    def run(self) -> int:
        """Examine; return the exit status, 0 or 1. The process must then exit without waiting for its process groups.

        Raises:
            CommunicationError: rank 0 could not be reached, or has gone.
        """
        try:
            store = open_store(self._environment, self._settings.timeout_s)
        except CommunicationError as error:
            if self._rank != 0:
                raise
            self._checks.append(Check("rendezvous", "fail", "no meeting point", "one", str(error)))
            return self._publish(self._report())
        self._council = Council(store, self._rank, self._environment.world_size)
        try:
            self._examine(self._meet())
            self._end()
        except _EndedError as ended:
            self.abandoned = ended.abandoned
            self._leave(ended.broken)
            return ended.status
        except dist.DistError as error:  # of the store; those of groups are reported to rank 0
            raise CommunicationError(f"lost rank 0: {str(error).strip().splitlines()[0]}; see what it said") from None

    def _meet(self) -> Roster:
        """Find out which ranks are there; rank 0 names those that are missing."""
        timeout_s = self._settings.timeout_s
        try:
            hosts = self._council.gather(socket.gethostname(), timeout_s)
        except SilentRanksError:
            missing = missing_ranks(self._council.answers(), self._environment, timeout_s)
            self._checks.append(missing)
            self._broken = missing.measured
            self._end()
        # The others may have come long before the last, whom rank 0 waits for.
        nodes = self._order("meet", nodes=hosts)["nodes"]
        if self._rank == 0:
            self._checks.append(judge_meeting(nodes, time.monotonic() - self._started, timeout_s))
            if self._settings.config_error:
                advice = f"{self._settings.config_error}. What follows is without it: groups of all ranks"
                self._checks.append(Check("configuration", "fail", "impossible", "one that can be run", advice))
        return Roster(nodes)

    def _examine(self, roster: Roster) -> None:
        self._nodes = [{"name": node, "ranks": roster.ranks_of(node)} for node in roster.nodes]
        facts = FactsProbe(self._environment, roster)
        directory = RunDirectory(self._settings.run_dir, roster)
        plan = probes(self._settings, self._environment, roster, self._leaving, facts, directory, self._agreed)
        try:
            for probe in plan:
                self._probe(probe, roster)
                if probe is facts and facts.facts:
                    self._nodes = describe_nodes(facts.facts, roster)
        finally:
            if self._rank == 0:
                directory.close()

    def _probe(self, probe: Probe[Any], roster: Roster) -> None:
        brief = self._order("probe", **self._brief(probe))["brief"]
        if brief is None:
            return
        adapter: TypeAdapter[Any] = TypeAdapter(probe.measured)
        try:
            answer = {"measured": adapter.dump_python(probe.measure(brief), mode="json")}
        except Exception as error:  # becomes a failed check, on rank 0
            answer = {"error": _reason(error)}
        try:
            answers = [json.loads(text) for text in self._council.gather(json.dumps(answer), self._patience_s)]
        except SilentRanksError as error:
            advice = f"see whether {roster.name(error.ranks)} was killed, or is stuck"
            measured = f"no answer from {roster.name(error.ranks)} within {error.patience_s:g} s"
            self._checks.append(Check(probe.name, "fail", measured, "an answer from every rank", advice))
            self._broken, self.abandoned = measured, True
            self._end()
        if self._rank == 0:
            self._judge(probe, answers, adapter, roster)

    def _brief(self, probe: Probe[Any]) -> dict[str, str | None]:
        """Decide on rank 0 whether a probe is made, and what the ranks are to know for it."""
        if self._rank != 0:
            return {}
        self._progress(probe.name)
        limit_s = self._settings.time_limit_s
        try:
            if time.monotonic() - self._started > limit_s:
                raise NotMeasuredError(f"the time limit of {limit_s:g} s has passed")
            if probe.communicates and self._broken:
                raise NotMeasuredError(self._broken)
            return {"brief": probe.brief()}
        except NotMeasuredError as error:
            self._checks += probe.so_far() or [Check(probe.name, "warn", "not measured", "", str(error))]
        except Exception as error:  # whatever it is becomes a failed check, and the other probes are made
            self._checks += [*probe.so_far(), Check(probe.name, "fail", _reason(error), "", probe.advice())]
        return {"brief": None}

    def _judge(self, probe: Probe[Any], answers: Sequence[Any], adapter: TypeAdapter[Any], roster: Roster) -> None:
        failed = [rank for rank, answer in enumerate(answers) if "error" in answer]
        if failed:
            reason = answers[failed[0]]["error"]
            found = [*probe.so_far(), Check(probe.name, "fail", f"{roster.name(failed)}: {reason}", "", probe.advice())]
            if probe.communicates:
                self._broken = f"`{probe.name}` has failed, and groups are not used after that"
        else:
            try:
                found = probe.judge([adapter.validate_python(answer["measured"]) for answer in answers])
            except Exception as error:  # likewise
                found = [Check(probe.name, "fail", _reason(error), "", probe.advice())]
        self._checks += found
        vital = next((check for check in found if check.status == "fail" and check.name in _VITAL), None)
        if vital is not None:
            self._broken = f"`{vital.name}` must be dealt with first"

    def _agreed(self, say: bool) -> bool:
        """Return on all ranks what rank 0 says."""
        return bool(self._order("agree", say=say)["say"])

    def _order(self, do: str, **more: Any) -> dict[str, Any]:
        """Return what rank 0 wants all ranks to do now.

        Raises:
            _EndedError: to end.
            CommunicationError: rank 0 says nothing.
        """
        order: dict[str, Any] = json.loads(self._council.announce(json.dumps({"do": do, **more}), 2 * self._patience_s))
        if order["do"] == "end":
            raise _EndedError(order["status"], order["broken"], order["abandoned"])
        assert self._rank == 0 or order["do"] == do
        return order

    def _report(self) -> Report:
        return Report(self._checks, self._nodes, time.monotonic() - self._started)

    def _end(self) -> NoReturn:
        """Show the report on rank 0; release the other ranks, which wait for that."""
        broken, status = False, 0
        if self._rank == 0:
            broken, status = bool(self._broken), self._publish(self._report())
        self._order("end", status=status, broken=broken, abandoned=self.abandoned)
        raise AssertionError

    def _leave(self, broken: bool) -> None:
        """Leave the groups, unless one may have lost a member; rank 0, which may serve the store, goes last."""
        with suppress(Exception):  # the verdict is given
            if not broken:
                self._leaving.close()
            self._leaving.pop_all()
            self._council.gather("farewell", _FAREWELL_S)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
