"""How much faster text is generated with keys and values kept than without: ``python -m benchmarks.decoding RUN``.

One process and one thread. Both continue the same random prompt greedily, taking turns, so that what else the machine
does affects both, and must give the same tokens.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import click
import torch

import unipool_dist as up
from unipool_dist.inference.generation import continuation
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.sampler import Sampling


def decode(run: OpenedRun, prompt: list[int], tokens: int, cached: bool) -> tuple[float, list[int]]:
    """Return the seconds, those of the prompt included, and the tokens; the end of a document may come first."""
    before = time.perf_counter()
    found = list(continuation(run, prompt, tokens, Sampling(temperature=0.0), cached=cached))
    return time.perf_counter() - before, found


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, path_type=Path))
@click.option("--context", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens of the prompt.")
@click.option("--tokens", type=click.IntRange(min=1), default=256, show_default=True, help="To generate.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
def main(run_dir: Path, context: int, tokens: int, rounds: int) -> None:
    """Print the seconds of each round, and the ratio of the fastest ones."""
    torch.set_num_threads(1)
    with up.open_run(run_dir) as opened:
        run = opened.opened
        draw = random.Random(0)
        prompt = [draw.randrange(run.vocabulary.document_end + 1, run.vocabulary.vocab_size) for _ in range(context)]
        if context + tokens > run.plan.model.sequence_length:
            raise click.UsageError(f"the model has model.sequence_length={run.plan.model.sequence_length}")
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            texts = []
            for cached, seconds in times.items():
                elapsed, text = decode(run, prompt, tokens, cached)
                seconds.append(elapsed)
                texts.append(text)
                print(f"{'with' if cached else 'without'} a cache: {len(text)} tokens in {elapsed:.2f} s")
            assert texts[0] == texts[1], "the texts differ"
        print(f"with a cache {min(times[False]) / min(times[True]):.1f} times as fast")


if __name__ == "__main__":
    main()
