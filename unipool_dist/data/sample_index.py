"""The indices behind a training order: built once into a folder, opened by every rank.

Guarantee: the folder appears by a rename, so it holds all indices or does not exist; its name is a hash of all that
decides them, so a change of corpus, seed or length never meets stale indices.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unipool_dist.data.corpus import Corpus
from unipool_dist.data.megatron import import_megatron, quiet_megatron


@dataclass(frozen=True)
class SampleIndex:
    """What is drawn: ``num_samples`` sequences of ``sequence_length`` tokens, domains by ``shares`` (summing to 1).

    Collectives: none here; :func:`unipool_dist.data.sampling.training_dataset` lets rank 0 build before others open.
    """

    corpus: Corpus
    sequence_length: int
    num_samples: int
    seed: int
    shares: dict[str, float]

    @property
    def key(self) -> str:
        """Name of the folder of indices. The path counts because Megatron-core's file names are hashes over it."""
        path = str(self.corpus.path.absolute())  # unresolved: a link may lead elsewhere on another node
        identity = [self.corpus.content_hash, path, self.sequence_length, self.num_samples, self.seed, self.shares]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]

    def build(self, cache_dir: Path | None, spare_dir: Path | None = None) -> str:
        """Build the indices below ``cache_dir`` (``None``: the corpus's), or if that cannot be written to, below
        ``spare_dir``, unless they are there; the folder's path."""
        wanted = cache_dir or self.corpus.path.absolute() / "cache"
        if not (wanted / self.key).is_dir():
            wanted = _writable(wanted, spare_dir or _temporary(self.corpus.content_hash))
        folder = wanted / self.key
        if not folder.is_dir():
            incoming = Path(tempfile.mkdtemp(prefix="incoming-", dir=folder.parent))
            try:
                self.open(str(incoming))
                incoming.chmod(0o755)  # mkdtemp's folders are closed to other users
                incoming.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another run was faster, with the same result
                    raise
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
        return str(folder)

    def open(self, folder: str) -> Any:
        """The dataset whose indices are in ``folder``; Megatron-core makes missing ones if this process may (rank 0).

        The blend is computed in memory by every rank, being a pure function: megatron-core 0.16 cannot keep it on disk
        without a process group, for which its BlendedMegatronDatasetBuilder fails in a single process. Its warning that
        nothing is kept is held back, as are those of megatron-core 0.19 about the missing group.
        """
        with quiet_megatron():
            return self._open(folder)

    def _open(self, folder: str) -> Any:
        gpt = import_megatron("datasets.gpt_dataset")
        train = import_megatron("datasets.utils").Split.train
        prefixes = [str(self.corpus.prefix(name, "train").absolute()) for name in self.shares]
        options = {
            "random_seed": self.seed,
            "sequence_length": self.sequence_length,
            "blend_per_split": [(prefixes, list(self.shares.values())), None, None],
            "tokenizer": self.corpus.tokenizer,
            "reset_position_ids": False,
            "reset_attention_mask": False,
            "eod_mask_loss": False,
            "create_attention_mask": False,
        }
        cached = gpt.GPTDatasetConfig(**options, path_to_cache=folder)
        datasets = []
        for prefix, share in zip(prefixes, self.shares.values(), strict=True):
            store = gpt.GPTDataset.build_low_level_dataset(prefix, cached)
            documents = np.arange(gpt.GPTDataset.numel_low_level_dataset(store), dtype=np.int32)
            # The blend draws a domain only while it lags behind its share: never more than ceil(n * share) + 1 times.
            wanted = self.num_samples if len(prefixes) == 1 else math.ceil(self.num_samples * share) + 1
            datasets.append(gpt.GPTDataset(store, prefix, documents, wanted, train, cached))
        if len(datasets) == 1:
            return datasets[0]
        in_memory = gpt.GPTDatasetConfig(**options, path_to_cache=None)
        blended = import_megatron("datasets.blended_dataset")
        return blended.BlendedDataset(datasets, list(self.shares.values()), self.num_samples, in_memory)


def _writable(folder: Path, spare: Path) -> Path:
    """``folder``, made if need be, or if it cannot be written to, ``spare``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:
        pass  # a read-only file system, or no permission to make it
    spare.mkdir(mode=0o700, parents=True, exist_ok=True)
    return spare.absolute()


def _temporary(content_hash: str) -> Path:
    """A folder for temporary files of this user, on this machine alone."""
    return Path(tempfile.gettempdir()) / f"unipool-dist-{os.getuid()}" / content_hash[:24]
