"""From text to batches: prepare corpora (``prepare``), open them, draw sequences from them."""

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
