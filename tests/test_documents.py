"""The documents name files, links and headings that there are."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SOURCES = sorted(
    path
    for pattern in ("*.py", "yt8m/**/*.py", "tools/*.py", "benchmarks/*.py", "tests/**/*.py", "recipes/*.flags")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)]+)\)")
DOCUMENT_IN_SOURCE = re.compile(r"docs/[\w./-]+\.(?:md|csv|svg)")
# A path of this repository in backticks; names inside a run's directory and made-up files have no such start.
PATH = re.compile(r"`((?:yt8m|tests|tools|benchmarks|docs|recipes)/[\w./-]+|[a-z_]+\.py)`")
RUNS_WITH = re.compile(r"python (?:-m ((?:tools|yt8m)\.[\w.]+)|((?:benchmarks/)?\w+\.py))")


def anchors(text: str) -> set[str]:
    """Returns the names under which GitHub links to headings: lower case, hyphens for spaces, no other marks."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> Iterator[str]:
    for link in LINK.findall(document.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    assert not list(broken_links(document))
    assert not [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    programs = [f"{module.replace('.', '/')}.py" if module else program for module, program in RUNS_WITH.findall(text)]
    assert not [program for program in programs if not (ROOT / program).exists()]


def test_sources_name_documents_that_there_are() -> None:
    named = {name: path for path in SOURCES for name in DOCUMENT_IN_SOURCE.findall(path.read_text())}
    assert named
    assert not {name: path for name, path in named.items() if not (ROOT / name).exists()}


def test_every_document_is_linked_to() -> None:
    linked = {
        (document.parent / link.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for link in LINK.findall(document.read_text())
    }
    in_docs = {path.resolve() for path in ROOT.glob("docs/**/*.md")}
    assert not in_docs - linked


def test_an_anchor_is_made_as_on_github() -> None:
    assert anchors("# Metrics\n## What is reported, and why?\n") == {"metrics", "what-is-reported-and-why"}
