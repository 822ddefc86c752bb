"""A promise in the documents names the test that keeps it; here, that there is such a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/*/*.md", "*/README.md", "configs/*/README.md", "tests/*/README.md")
    for path in ROOT.glob(pattern)
    if not path.relative_to(ROOT).parts[0].startswith(".")  # pytest's cache has a README of its own
)
_TEST = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_and_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    file = ""
    for named, function in _TEST.findall(text):
        file = named or file
        if not file or not (named or function):
            continue
        path = ROOT / file
        assert path.is_file(), f"{document.name} names {file}"
        functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert not function or function in functions, f"{document.name} names {file}::{function}"
    for target in _LINK.findall(text):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"
