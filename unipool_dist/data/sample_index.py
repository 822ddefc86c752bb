"""The indices of a training order: built once into a folder, opened by every rank.

Guarantees: the folder appears by a rename, so it holds all indices or does not exist; its name is a hash of all that
decides them, so a change of corpus, seed or length never meets stale indices; an index that was not written by this
user, or has changed since, is rebuilt (:mod:`unipool_dist.data.index_files`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unipool_dist.base.belongings import any_file, discard, remove
from unipool_dist.comm.megatron_import import import_megatron, quiet_megatron
from unipool_dist.data.corpus import Corpus
from unipool_dist.data.index_files import fault, load_array, make_room, private_folder, seal
from unipool_dist.data.index_size import check_index_size
from unipool_dist.data.token_store import check_token_store
from unipool_dist.errors import DataError

INDEX_FORMAT = 2  # 1 had Megatron-core's file names and no hashes
_DIMENSIONS = {"document_index": 1, "sample_index": 2, "shuffle_index": 1}
"""Megatron-core's three arrays of a dataset, in its order."""


@dataclass(frozen=True)
class SampleIndex:
    """A draw of ``num_samples`` sequences of ``sequence_length`` tokens, domains by ``shares`` (summing to 1).

    Collectives: none here; :func:`unipool_dist.data.sampling.training_dataset` lets rank 0 build before others open.
    """

    corpus: Corpus
    sequence_length: int
    num_samples: int
    seed: int
    shares: dict[str, float]

    @property
    def key(self) -> str:
        """Name of the folder of indices."""
        identity = [self.corpus.content_hash, self.sequence_length, self.num_samples, self.seed, self.shares]
        return hashlib.sha256(json.dumps([INDEX_FORMAT, *identity]).encode()).hexdigest()[:24]

    def build(self, cache_dir: Path | None, spare_dir: Path | None = None) -> str:
        """Build the indices, unless a sound index exists; return the folder's path.

        The folder is below ``cache_dir`` (``None``: the corpus's), or if that is not writable, below ``spare_dir``.

        Raises:
            DataError: the token stores are damaged, the index would not fit into memory, or no folder is writable.
        """
        check_index_size(self.corpus, self.sequence_length, self._wanted())
        for name in self.shares:
            check_token_store(self.corpus, name, "train")
        folder = (cache_dir or self.corpus.path.absolute() / "cache") / self.key
        if fault(folder, self.key) is None:
            return str(folder)
        if not make_room(folder):
            folder = (spare_dir or _temporary()).absolute() / self.key
            if fault(folder, self.key) is None:
                return str(folder)
            if not make_room(folder):
                raise DataError(f"{folder} cannot be written: remove what is there, or give a folder that can be")
        incoming = Path(tempfile.mkdtemp(prefix="incoming-", dir=folder.parent))
        try:
            self._write(incoming)
            seal(incoming, self.key)
            incoming.rename(folder)
        except OSError:
            if fault(folder, self.key) is not None:  # else another run was faster, with the same result
                raise
        finally:
            discard(incoming)
        return str(folder)

    def open(self, folder: str) -> Any:
        """Open the dataset whose indices are in ``folder``.

        The blend is computed in memory by every rank, being a pure function: megatron-core 0.16 cannot keep it on disk
        without a process group, for which its BlendedMegatronDatasetBuilder fails in a single process. Its warning that
        nothing is kept is held back, as are those of megatron-core 0.19 about the missing group.

        Raises:
            OSError, ValueError: a file of ``folder`` cannot be read, or is not an index.
        """
        gpt = import_megatron("datasets.gpt_dataset")

        class LoadedDataset(gpt.GPTDataset):  # type: ignore[name-defined]
            """A dataset that reads its arrays from files of integers; Megatron-core's own would unpickle them."""

            def _build_document_sample_shuffle_indices(self) -> tuple[Any, ...]:
                domain = Path(self.dataset_path).name.removesuffix(".train")
                return tuple(load_array(_array(Path(folder), domain, kind), n) for kind, n in _DIMENSIONS.items())

        with quiet_megatron():
            datasets = self._datasets(LoadedDataset, self._options(folder))
            if len(datasets) == 1:
                return datasets[0]
            blended = import_megatron("datasets.blended_dataset")
            shares = list(self.shares.values())
            return blended.BlendedDataset(datasets, shares, self.num_samples, self._options(None))

    def _write(self, folder: Path) -> None:
        """Let Megatron-core build the indices in ``folder``, which is empty and belongs to this user alone."""
        gpt = import_megatron("datasets.gpt_dataset")
        with quiet_megatron():
            for name, dataset in zip(
                self.shares, self._datasets(gpt.GPTDataset, self._options(str(folder))), strict=True
            ):
                prefix = f"{dataset.unique_description_hash}-GPTDataset-train-"
                for kind in _DIMENSIONS:
                    (folder / f"{prefix}{kind}.npy").rename(_array(folder, name, kind))
                remove(folder / f"{prefix}description.txt", any_file)

    def _wanted(self) -> dict[str, int]:
        """Return the samples to index of each domain.

        The blend draws a domain only while it lags behind its share: never more than ceil(n * share) + 1 times.
        """
        if len(self.shares) == 1:
            return dict.fromkeys(self.shares, self.num_samples)
        return {name: math.ceil(self.num_samples * share) + 1 for name, share in self.shares.items()}

    def _prefix(self, name: str) -> str:
        return str(self.corpus.prefix(name, "train").absolute())

    def _options(self, folder: str | None) -> Any:
        return import_megatron("datasets.gpt_dataset").GPTDatasetConfig(
            random_seed=self.seed,
            sequence_length=self.sequence_length,
            blend_per_split=[([self._prefix(name) for name in self.shares], list(self.shares.values())), None, None],
            tokenizer=self.corpus.tokenizer,
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            path_to_cache=folder,
        )

    def _datasets(self, kind: Any, options: Any) -> list[Any]:
        train = import_megatron("datasets.utils").Split.train
        datasets = []
        for name, wanted in self._wanted().items():
            store = kind.build_low_level_dataset(self._prefix(name), options)
            documents = np.arange(kind.numel_low_level_dataset(store), dtype=np.int32)
            datasets.append(kind(store, self._prefix(name), documents, wanted, train, options))
        return datasets


def _array(folder: Path, domain: str, kind: str) -> Path:
    return folder / f"{domain}.{kind}.npy"


def _temporary() -> Path:
    """Return a folder for temporary files of this user, on this machine only."""
    return private_folder(Path(tempfile.gettempdir()) / f"unipool-dist-{os.geteuid()}")
