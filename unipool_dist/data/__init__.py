"""From text to batches: prepare corpora (``prepare``), open them, draw sequences from them.

The public names are imported when they are first used, so that processes which only prepare text do not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unipool_dist.data.batches import Batch, SampleDataset, micro_batch
    from unipool_dist.data.corpus import Corpus
    from unipool_dist.data.corpus_manifest import Domain
    from unipool_dist.data.sampling import TrainingDataset, training_dataset
    from unipool_dist.data.segments import Segment, SegmentedDataset, extended, training_data
    from unipool_dist.data.tokenizer import Tokenizer
    from unipool_dist.data.validation import Rows, StoredSequences, validation_sequences

__all__ = [
    "Batch",
    "Corpus",
    "Domain",
    "Rows",
    "SampleDataset",
    "Segment",
    "SegmentedDataset",
    "StoredSequences",
    "Tokenizer",
    "TrainingDataset",
    "extended",
    "micro_batch",
    "training_data",
    "training_dataset",
    "validation_sequences",
]

if not TYPE_CHECKING:  # a type checker would take any name for one that is there
    _MODULES = {
        **dict.fromkeys(("Batch", "SampleDataset", "micro_batch"), "batches"),
        **dict.fromkeys(("TrainingDataset", "training_dataset"), "sampling"),
        **dict.fromkeys(("Segment", "SegmentedDataset", "extended", "training_data"), "segments"),
        **dict.fromkeys(("Rows", "StoredSequences", "validation_sequences"), "validation"),
        **{"Corpus": "corpus", "Domain": "corpus_manifest", "Tokenizer": "tokenizer"},
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
