"""Links in README and docs lead somewhere: to a file that is there, and to a heading that it has."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import tomli

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
README_MAX_LINES = 150
# Pages that `tools/manual.py` makes when the site is built.
GENERATED = {ROOT / "docs" / "reference" / "commands.md"}

_FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


def _repository() -> str:
    return tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def _links(page: Path) -> list[str]:
    return _LINK.findall(_FENCED.sub("", page.read_text()))


def _anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub and the site make them."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _file(link: str, page: Path) -> Path | None:
    """The file of this repository that a link of a page means; None for one to elsewhere."""
    path = unquote(urlparse(link).path)
    if not urlparse(link).scheme:
        return page if not path else (page.parent / path).resolve()
    owner_and_name = urlparse(_repository()).path
    if link.startswith(_repository()):
        parts = path.removeprefix(owner_and_name).strip("/").split("/", 2)
        if parts == [""]:
            return README
        return ROOT / parts[2] if parts[0] in ("blob", "tree") else None
    raw = f"https://raw.githubusercontent.com{owner_and_name}/main/"
    return ROOT / link.removeprefix(raw) if link.startswith(raw) else None


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_to_files_and_headings_that_are_there(page):
    broken = []
    for link in _links(page):
        file = _file(link, page)
        if file is None or file in GENERATED:
            continue
        fragment = urlparse(link).fragment
        if not file.exists() or (fragment and file.suffix == ".md" and fragment not in _anchors(file)):
            broken.append(link)
    assert not broken


def test_readme_is_short_and_has_links_that_a_package_index_can_follow():
    assert len(README.read_text().splitlines()) <= README_MAX_LINES
    assert [link for link in _links(README) if urlparse(link).scheme != "https"] == []
