"""Under torch.distributed all ranks get one order, and all fail together."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment
from unipool_dist.data import Corpus, training_dataset
from unipool_dist.errors import DataError


def work(environment: Environment, rendezvous: Path, corpus_dir: Path, cache: Path) -> list[list[int]]:
    """What each rank does; raises if it sees anything unexpected, which fails the test."""
    rank = environment.rank
    # A file and not a port: no other process can take it, and no rank depends on another outliving it.
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    corpus = Corpus.open(corpus_dir)
    dataset = training_dataset(corpus, sequence_length=32, num_samples=50, seed=3, cache_dir=cache)
    tokens = [dataset[i]["tokens"].tolist() for i in range(50)]
    gathered: list[list[list[int]]] = [[], []]
    dist.all_gather_object(gathered, tokens)
    assert gathered[0] == gathered[1]
    if rank == 0:
        (corpus_dir / "alpha.train.idx").write_bytes(b"damaged")
    dist.barrier()
    try:
        training_dataset(corpus, sequence_length=32, num_samples=51, seed=3, cache_dir=cache)
    except DataError as error:
        assert "cannot be indexed" in str(error)  # noqa: PT017  (what rank 1 raises must be rank 0's failure)
    else:
        raise AssertionError("a damaged store was indexed")
    dist.destroy_process_group()
    return tokens


def test_two_ranks_share_one_order_and_one_failure(
    workers: Workers, corpus_dir: Path, corpus: Corpus, tmp_path: Path
) -> None:
    copy = shutil.copytree(corpus_dir, tmp_path / "copy")
    ranks = workers.run(work, 2, tmp_path / "rendezvous", copy, tmp_path / "cache")
    alone = training_dataset(corpus, sequence_length=32, num_samples=50, seed=3)
    assert ranks == [[alone[i]["tokens"].tolist() for i in range(50)]] * 2
