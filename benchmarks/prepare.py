"""How much faster several worker processes prepare a corpus than one: ``python -m benchmarks.prepare``.

The text is Python code that is installed here, in several files. One process and several take turns, so that what else
the machine does affects both. The corpora have to be the same, to the byte.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click

FILES = 8


def write_text(folder: Path, num_bytes: int) -> int:
    """Write about ``num_bytes`` of code as ``FILES`` files of JSON lines; return how many bytes there are."""
    files = [(folder / f"{i}.jsonl").open("w", encoding="utf-8") for i in range(FILES)]
    written = 0
    for i, path in enumerate(sorted(Path(sysconfig.get_path("purelib")).rglob("*.py"))):
        text = path.read_text(encoding="utf-8", errors="replace")
        files[i % FILES].write(json.dumps({"text": text}) + "\n")
        written += len(text.encode())
        if written >= num_bytes:
            break
    for file in files:
        file.close()
    return written


def prepare(out: Path, text: Path, workers: int, options: Sequence[str]) -> float:
    """Prepare ``text`` as a user does; return the seconds."""
    command = [sys.executable, "-m", "unipool_dist", "data", "prepare", str(out), f"--source=code={text}"]
    before = time.perf_counter()
    subprocess.run([*command, f"--workers={workers}", "--no-progress", *options], check=True, capture_output=True)
    return time.perf_counter() - before


@click.command()
@click.option("--megabytes", type=click.IntRange(min=1), default=45, show_default=True)
@click.option("--workers", type=click.IntRange(min=2), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--tokenizer", type=click.Path(exists=True, path_type=Path), help="Use this one.  [default: train one]")
def main(megabytes: int, workers: int, rounds: int, tokenizer: Path | None) -> None:
    """Print the seconds of each round, and the ratio of the fastest ones."""
    options = [] if tokenizer is None else [f"--tokenizer={tokenizer.absolute()}"]
    with TemporaryDirectory() as folder:
        text = Path(folder, "text")
        text.mkdir()
        print(f"{write_text(text, megabytes * 10**6) / 1e6:.1f} MB in {FILES} files")
        times: dict[int, list[float]] = {1: [], workers: []}
        manifests = set()
        for i in range(rounds):
            for number, seconds in times.items():
                out = Path(folder, f"{i}-{number}")
                seconds.append(prepare(out, text, number, options))
                manifests.add((out / "manifest.json").read_bytes())
                print(f"workers {number}: {seconds[-1]:.2f} s")
        assert len(manifests) == 1, "the corpora differ"
        print(f"{workers} workers are {min(times[1]) / min(times[workers]):.2f} times as fast as one")


if __name__ == "__main__":
    main()
