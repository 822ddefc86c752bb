"""How a sweep is split into runs, and that none is trained twice."""

from __future__ import annotations

import pytest

from unipool_dist.config import load_config
from unipool_dist.errors import ConfigError
from unipool_dist.jobs.sweep import MAX_RUNS, check_distinct, combinations


@pytest.mark.parametrize(
    ("sweep", "values"),
    [
        ("train.seed=1,2", ["1", "2"]),
        ("data.weights={a: 1, b: 2},{a: 2, b: 1}", ["{a: 1, b: 2}", "{a: 2, b: 1}"]),
        ("data.weights={a: 1, 'b,}': 2},null", ["{a: 1, 'b,}': 2}", "null"]),
        ("""data.path='a,b',"c,d",e'f,g""", ["'a,b'", '"c,d"', "e'f", "g"]),
        ("x.y=[[1,2],[3]],4", ["[[1,2],[3]]", "4"]),
        ("data.path=a],b", ["a]", "b"]),
    ],
)
def test_commas_in_brackets_and_quotes_are_part_of_a_value(sweep: str, values: list[str]) -> None:
    name = sweep.partition("=")[0]
    assert combinations([sweep]) == [(f"{name}={value}",) for value in values]


def test_quoted_values_are_what_is_inside() -> None:
    paths = [load_config(None, run).data.path for run in combinations(["data.path='a,b',\"c #2\",d"])]
    assert paths == ["a,b", "c #2", "d"]


@pytest.mark.parametrize("sweep", ["train.seed=1,,2", "train.seed=", "data.weights={a: 1,2", "data.path='a,b", "a=1"])
def test_other_forms_are_refused(sweep: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form section\.field=value,value"):
        combinations([sweep])


def test_more_runs_than_anybody_wants_are_refused_at_once() -> None:
    hundred = ",".join(map(str, range(100)))
    with pytest.raises(ConfigError, match=f"more than {MAX_RUNS:,} runs"):
        combinations([f"a.f{number}={hundred}" for number in range(10)])


@pytest.mark.parametrize(
    "sweep", ["train.seed=001,2,1", "optimizer.lr=1e-3,0.001", "run.watchdog_s=1,1.0", "log.tensorboard=true,on",
              "data.path=a,'a'", "data.weights={a: 1, b: 2},{'a': 1.0, b: 2}"]
)  # fmt: skip
def test_equal_points_are_refused(sweep: str) -> None:
    configs = {",".join(run): load_config(None, run) for run in combinations([sweep])}
    with pytest.raises(ConfigError, match="are the same run"):
        check_distinct(configs)


def test_points_that_differ_are_taken() -> None:
    check_distinct({",".join(run): load_config(None, run) for run in combinations(["train.seed=001,002,010"])})
