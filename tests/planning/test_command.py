"""``unipool-dist model``: what it prints, as text and as JSON, and what it says when something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from unipool_dist.cli import cli
from unipool_dist.config import Config, load_config, resolve
from unipool_dist.errors import UnipoolError

ROOT = Path(__file__).parents[2]
UNIPOOL = ROOT / "configs" / "paper" / "182m-unipool.yaml"
PARTS = ("expert", "router", "attention", "embedding", "norm")


def show(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["model", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_document_has_the_sizes_of_the_paper() -> None:
    document = json.loads(show(UNIPOOL, "--json"))
    assert document["stored_parameters"] == 777_898_764
    assert document["expert_parameters"] == 96 * 3 * 768 * 3072
    assert document["active_parameters"] == 777_898_764 - (96 - 12) * 3 * 768 * 3072
    assert sum(document[f"{part}_parameters"] for part in PARTS) == document["stored_parameters"]
    assert sum(document["forward_flops_per_token_by_part"].values()) == document["forward_flops_per_token"]
    assert document["training_flops_per_token"] == 3 * document["forward_flops_per_token"]
    (rank,) = document["ranks"]
    assert rank["total_bytes"] == document["largest_rank_bytes"]
    assert document["layout"]["zero_stage"] == 1


def test_text_names_the_kinds_of_ranks_and_the_largest() -> None:
    text = show(UNIPOOL, "parallel.pp=4", "parallel.dp=4")
    assert text.startswith("12 layers, hidden 768, one pool of 96 experts, top-1, norm router, bf16\n")
    assert "pp 4 x dp 4 x tp 1 = 16 processes; each copy of the pool is owned by 8 ranks" in text
    kinds = [line for line in text.splitlines() if line.startswith("stage")]
    assert [line.split("  ")[0] for line in kinds] == ["stage 0", "stages 1-2", "stage 3"]
    assert [line.endswith("largest") for line in kinds] == [False, False, True]
    assert "777,898,764" in text


def test_resolved_shows_the_whole_configuration(tmp_path: Path) -> None:
    text = show(UNIPOOL, "train.seed=5", "--resolved")
    path = tmp_path / "whole.yaml"
    path.write_text(text)
    assert load_config(path) == resolve(load_config(UNIPOOL, ["train.seed=5"]), 8).config
    assert yaml.safe_load(text).keys() == Config.model_fields.keys()


def test_open_data_parallelism_takes_as_few_processes_as_can_own_the_pool() -> None:
    layout = json.loads(show(UNIPOOL, "parallel.dp=auto", "parallel.tp=2", "--json"))["layout"]
    assert (layout["dp"], layout["tp"]) == (4, 2)
    layout = json.loads(show(UNIPOOL, "parallel.dp=auto", "--nproc", 16, "--json"))["layout"]
    assert layout["dp"] == 16


def test_the_vocabulary_may_be_that_of_the_corpus(tiny_corpus: Path) -> None:
    document = json.loads(show(UNIPOOL, "model.vocab_size=null", f"data.path={tiny_corpus}", "--json"))
    assert document["embedding_parameters"] == 2 * 1024 * 768  # 320 tokens, padded to a multiple of 1,024


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model.vocab_size=null", "data.path=nowhere"], ["model.vocab_size=null", "data prepare nowhere", "or set"]),
        (["--nproc", "6"], ["needs 8 processes but 6", "parallel.dp=auto"]),
        (["optimizer.deepspeed=none.json"], ["optimizer.deepspeed=none.json: no such file"]),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], parts: list[str]) -> None:
    with pytest.raises(UnipoolError) as caught:
        show(UNIPOOL, *arguments)
    for part in parts:
        assert part in str(caught.value)


def test_torch_is_not_needed() -> None:
    program = "import sys; from unipool_dist.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", program, "model", str(UNIPOOL)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.endswith("False\n")


def test_stages_are_listed_and_the_largest_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "staged.yaml"
    path.write_text(
        "model: {vocab_size: 512}\n"
        "stages:\n"
        "  - {from_step: 11, train.global_batch_size: 64, optimizer.lr: 5e-4}\n"
        "  - {from_step: 21, model.sequence_length: 1024, train.micro_batch_size: 2}\n"
    )
    lines = [line.split() for line in show(path).splitlines()]
    first = lines.index(next(line for line in lines if line[:2] == ["from", "step"]))
    rows = lines[first + 1 : first + 4]
    assert [row[:5] for row in rows] == [
        ["1", "16", "4", "256", "4,096"],
        ["11", "64", "4", "256", "16,384"],
        ["21", "64", "2", "1,024", "65,536"],
    ]
    assert [row[6:] for row in rows] == [["0.001"], ["0.0005"], ["0.0005", "largest"]]
    stages = json.loads(show(path, "--json"))["stages"]
    assert [stage["from_step"] for stage in stages] == [1, 11, 21]
    assert stages[2]["training_flops_per_token"] > stages[1]["training_flops_per_token"]
    assert "from step" not in show(path, "stages=[]")
    with pytest.raises(UnipoolError, match=r"^the stage from step 11: train.global_batch_size=24 is not a multiple"):
        show(
            path, "parallel.dp=8", "train.global_batch_size=32", "stages=[{from_step: 11, train.global_batch_size: 24}]"
        )
