"""From measurements, made up here, to findings with advice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from unipool_dist.doctor.clock import judge_clocks
from unipool_dist.doctor.collective_speed import Timed, judge_collective
from unipool_dist.doctor.compute import Products, faster, judge_compute
from unipool_dist.doctor.confirmed import ROUNDS, Confirmed
from unipool_dist.doctor.disk_space import CheckpointNeed, judge_space
from unipool_dist.doctor.disk_speed import Transfer, judge_speed
from unipool_dist.doctor.fact_checks import check_cores, check_devices, check_master, check_memory, check_versions
from unipool_dist.doctor.facts import Facts, Gpu, Route
from unipool_dist.doctor.findings import Check, Report
from unipool_dist.doctor.measurement import Probe
from unipool_dist.doctor.neighbours import Link, judge_links
from unipool_dist.doctor.roster import Roster

TWO = Roster(["a", "a", "b", "b"])
THREE = Roster(["a", "b", "c"])
FACTS = Facts(
    versions={"unipool-dist": "1 (abc)", "torch": "2.13.0", "python": "3.11.7"},
    gpu=None,
    unused_gpu=False,
    cores=[0, 1, 2, 3],
    num_threads=2,
    memory_bytes=64_000_000_000,
    memory_available_bytes=32_000_000_000,
    route=Route("10.0.0.1", "eth0", 25_000),
    master_addresses=["10.0.0.1"],
    resolve_s=0.001,
    own_addresses=["10.0.0.1"],
)
GPU = Gpu("H", "uuid-0", 4, 79_000_000_000, 80_000_000_000)


def facts(*changes: dict) -> list[Facts]:
    return [replace(FACTS, **change) for change in changes]


def with_versions(**versions: str) -> dict:
    return {"versions": FACTS.versions | versions}


def test_versions_that_differ_are_named_with_their_nodes() -> None:
    assert check_versions(facts({}, {}, {}, {}), TWO).status == "ok"
    newer = with_versions(torch="2.14.0")
    found = check_versions(facts({}, {}, newer, newer), TWO)
    assert found.status == "fail" and found.advice
    assert found.measured == "torch 2.13.0 on a (ranks 0-1), 2.14.0 on b (ranks 2-3)"
    only_there = check_versions(facts({}, {}, {}, with_versions(cuda="13.0")), TWO)
    assert only_there.status == "fail" and "13.0 on rank 3 (b)" in only_there.measured


def test_python_may_differ_in_its_last_number_only() -> None:
    assert check_versions(facts({}, {}, {}, with_versions(python="3.11.9")), TWO).status == "warn"
    assert check_versions(facts({}, {}, {}, with_versions(python="3.12.7")), TWO).status == "fail"
    both = with_versions(python="3.11.9", torch="2.14.0")
    assert check_versions(facts({}, {}, {}, both), TWO).status == "fail"


@pytest.mark.parametrize(
    ("gpus", "status", "word"),
    [
        ([None] * 4, "ok", ""),
        ([GPU, replace(GPU, uuid="1"), GPU, replace(GPU, uuid="1")], "ok", ""),  # uuids are a node's own here
        ([GPU, GPU, replace(GPU, uuid="2"), replace(GPU, uuid="3")], "fail", "share one GPU: a (ranks 0-1)"),
        ([GPU, replace(GPU, uuid="1"), GPU, None], "fail", "rank 3 (b) see no GPU"),
        ([GPU, replace(GPU, uuid="1"), GPU, replace(GPU, uuid="3", name="A")], "warn", "slowest kind"),
        ([GPU, replace(GPU, uuid="1"), GPU, replace(GPU, uuid="3", free_bytes=40_000_000_000)], "warn", "rank 3 (b)"),
    ],
)
def test_gpus_are_one_for_each_rank_alike_and_free(gpus: list[Gpu | None], status: str, word: str) -> None:
    found = check_devices(facts(*({"gpu": gpu} for gpu in gpus)), TWO)
    assert (found.status, word in found.advice) == (status, True)


def test_a_gpu_that_torch_does_not_see_is_said() -> None:
    assert "CUDA build" in check_devices(facts({}, {}, {}, {"unused_gpu": True}), TWO).advice


def test_crowded_cores_memory_and_names_that_differ_are_warnings() -> None:
    assert check_cores(facts({}, {}, {}, {}), TWO).status == "ok"
    crowded = check_cores(facts({}, {}, {"cores": [0, 1]}, {"cores": [0, 1]}), TWO)
    assert crowded.status == "warn" and "on b; set OMP_NUM_THREADS=1" in crowded.advice
    assert check_memory(facts({}, {}, {}, {}), TWO).value == 16e9
    little = check_memory(facts({}, {}, {}, {"memory_available_bytes": 1_500_000_000}), TWO)
    assert little.status == "warn" and little.advice.startswith("b ")
    assert check_master(facts({}, {}, {}, {}), TWO).status == "ok"
    elsewhere = check_master(facts({}, {}, {}, {"master_addresses": ["127.0.1.1"]}), TWO)
    assert elsewhere.status == "warn" and "127.0.1.1 on rank 3 (b)" in elsewhere.advice


def test_clocks_more_than_a_second_off_are_named() -> None:
    assert judge_clocks({}).status == "ok"
    assert judge_clocks({"b": (0.9, 0.001)}).status == "ok"
    off = judge_clocks({"b": (0.2, 0.001), "c": (-90.0, 0.001)})
    assert off.status == "warn" and "c -90.0 s" in off.advice and "b" not in off.advice.split(";")[0]
    assert off.value == 90.0
    assert "cannot be measured" in judge_clocks({"b": (0.1, 2.0)}).advice


def products(*seconds: float, core_share: float = 1.0) -> list[Products]:
    return [Products(value, 1e9, core_share) for value in seconds]


def test_a_slow_node_and_a_slow_rank_are_named_with_what_to_look_for() -> None:
    assert judge_compute(products(1, 1.2, 1.1, 1), TWO).status == "ok"
    node = judge_compute(products(1, 1, 3, 3), TWO)
    assert node.slow_nodes == ("b",) and node.slow_ranks == () and "b 3.0x" in node.advice and "heat" in node.advice
    rank = judge_compute(products(1, 1, 1, 3, core_share=0.3), TWO)
    assert rank.slow_ranks == (3,) and "rank 3 (b) 3.0x" in rank.advice and "waits for a core" in rank.advice


class Recorded(Probe[Products]):
    """Gives the rounds that it was given."""

    name = "compute"
    measured = Products

    def measure(self, brief: str) -> Products:
        raise NotImplementedError

    def judge(self, measured: list[Products]) -> list[Check]:  # type: ignore[override]
        return [judge_compute(measured, TWO)]


def test_only_what_is_slow_in_every_round_is_named() -> None:
    disturbed = Confirmed(Recorded(), faster)
    assert disturbed.judge(products(1, 1, 1, 3)) == [] and not disturbed.settled
    assert [check.status for check in disturbed.judge(products(1, 1, 3, 1))] == ["ok"]
    always = Confirmed(Recorded(), faster)
    for _ in range(ROUNDS - 1):
        assert always.judge(products(1, 1, 1, 3)) == []
    (found,) = always.judge(products(1, 1, 1, 2))
    assert found.slow_ranks == (3,) and found.advice.startswith("slower than the median: rank 3 (b) 2.0x")


def test_what_was_found_slow_is_named_though_there_is_no_further_round() -> None:
    probe = Confirmed(Recorded(), faster)
    assert probe.so_far() == []
    assert probe.judge(products(1, 1, 1, 3)) == []
    settled = [probe.settled]
    (found,) = probe.so_far()
    settled.append(probe.settled)
    assert settled == [False, True] and found.slow_ranks == (3,)


def test_the_node_whose_links_are_all_slow_is_named() -> None:
    links = [Link(0, 1, 1e-5, 4_000_000, 0.004), Link(1, 2, 1e-5, 4_000_000, 0.001), Link(2, 0, 1e-5, 4_000_000, 0.004)]
    found = judge_links(links, THREE, compare=True)
    assert found.slow_nodes == ("a",) and found.status == "warn" and "a 4.0x" in found.advice
    assert found.value == pytest.approx(1.0)
    assert judge_links(links, THREE, compare=False).status == "ok"
    report = Report([found], [{"name": "a"}, {"name": "b"}], 1.0)
    assert [node["slow"] for node in report.document(strict=False)["nodes"]] == [["links"], []]
    assert report.ok(strict=False) and not report.ok(strict=True)


def test_a_collective_is_as_slow_as_the_slowest_rank_of_its_slowest_group() -> None:
    def timed(ranks: list[int], seconds: float) -> Timed:
        return Timed(ranks, 16, 1e-4, 8_000_000, seconds)

    measured = [timed([0, 1], 0.01), timed([0, 1], 0.008), timed([2, 3], 0.04), timed([2, 3], 0.02)]
    found = judge_collective("x", "all-reduce", measured, TWO, compare=True)
    assert found.status == "warn" and "b (ranks 2-3) 4.0x" in found.advice
    assert found.value == pytest.approx(8_000_000 / 0.04 / 1e9)
    assert judge_collective("x", "all-reduce", measured, TWO, compare=False).status == "ok"
    assert judge_collective("x", "all-to-all", [timed([0], 0.0)], Roster(["a"]), compare=True).status == "ok"


def test_room_is_asked_for_what_the_run_will_keep() -> None:
    need = CheckpointNeed(10_000_000, num_kept=3)
    assert judge_space(Path("x"), 40_000_000, 10**9, need).status == "ok"
    assert judge_space(Path("x"), 20_000_000, 10**9, need).status == "warn"
    assert judge_space(Path("x"), 9_000_000, 10**9, need).status == "fail"
    there = replace(need, num_there=2)
    assert judge_space(Path("x"), 20_000_000, 10**9, there).status == "ok", "two of the three are there already"
    assert judge_space(Path("x"), 10**8, 10**9, None).status == "warn"


def test_disk_speed_is_that_of_the_slowest_node() -> None:
    found = judge_speed("w", [Transfer(10**8, 1.0), Transfer(10**8, 0.2), Transfer(10**8, 0.2)], THREE)
    assert found.slow_nodes == ("a",) and found.value == pytest.approx(100.0)
    alike = judge_speed("w", [Transfer(10**7, 1.0)] * 3, THREE)
    assert alike.status == "warn" and not alike.slow_nodes, "all are slow, none slower than the others"
