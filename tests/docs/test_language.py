"""Docstrings and documents are in plain technical English: what the linter does not see of CONTRIBUTING.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "unipool_dist"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),  # not docs/results: the protocol of a study stays as it was before its first run
    *(ROOT / name / "README.md" for name in ("slurm", "ds_configs", "configs/paper")),
]
ODD = re.compile(
    r"\b(anew|beside|goes on|told|stands|lies|of which|(?<!there )is no(?= (?!longer|other|reason)[a-z]))\b",
    re.IGNORECASE,
)
"""Words that need two readings where an ordinary one exists: again, next to, continues, and so on."""
NOUN = re.compile(
    r"(The|A|An|What|Whether|How|Which|Who|Where|When|If|For|So|By|Of|Told|Those|As|At|In|On|From|To|With|Without|After|"
    r"Before|Until|While|Nothing|Everything|All|Every|Each|Some|Any|No|Not|One|Two|This|That|These|There|It|They|Its|"
    r"Also|Only|Once|Always|Never|Within|During|Bytes|True|False)\b|[^A-Z]"
)
"""Beginnings of a docstring that is not in the imperative, as ruff's D401 knows only verbs in other forms."""


def docstrings(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node, text


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not any(
        "property" in ast.unparse(decorator) for decorator in node.decorator_list
    )


def test_no_docstring_has_a_word_that_needs_two_readings() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {' '.join(text[max(0, odd.start() - 30) : odd.end() + 20].split())}"
        for path in MODULES
        for _, text in docstrings(path)
        for odd in ODD.finditer(text)
    ]
    assert not found, "\n".join(found)


def test_a_function_begins_with_what_it_does() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {text.splitlines()[0]}"
        for path in MODULES
        for node, text in docstrings(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_function(node) and NOUN.match(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_has_such_a_word(document: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", document.read_text())  # names of tests and output of programs
    found = [" ".join(text[max(0, odd.start() - 30) : odd.end() + 20].split()) for odd in ODD.finditer(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["it is no run", "beside it", "where it lies", "it goes on", "two, of which one"])
def test_an_odd_word_is_seen(text: str) -> None:
    assert ODD.search(text)


@pytest.mark.parametrize("text", ["there is no run", "besides", "it relies on", "outstanding", "it continues"])
def test_an_ordinary_word_is_left_alone(text: str) -> None:
    assert not ODD.search(text)


@pytest.mark.parametrize(("text", "is_noun"), [("What it is", True), ("``x`` as text", True), ("Allocate", False)])
def test_a_beginning_that_is_no_verb_is_seen(text: str, is_noun: bool) -> None:
    assert bool(NOUN.match(text)) is is_noun
