"""The code blocks of README and docs, and what a comment above each says of how it is tested.

| comment above a block | the block |
|---|---|
| none | is run: Python as a module, a shell's lines as commands, YAML as a run config |
| `<!-- run: from metaflow import step -->` | is run as Python behind these statements, which the page leaves out |
| `<!-- part of: FILE -->` | stands in the definitions file that an example is compiled to |
| `<!-- synopsis -->` | shows commands with options, which they have |
| `<!-- not run: REASON -->` | is not run |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# A test of its own walks through it, `tests/e2e/test_tutorial.py`.
TUTORIAL = DOCS / "tutorial.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]

_BLOCK = re.compile(
    r"^(?: *<!-- (?P<key>[a-z ]+)(?:: (?P<value>.+?))? -->\n)?"
    r" *(?P<fence>```|~~~)(?P<language>\w*)(?: title=\"(?P<title>[^\"]*)\")?\n(?P<text>.*?)^ *(?P=fence)\s*$",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        page: The page.
        line: The line where it begins.
        section: The heading above it, without its hashes.
        language: What the fence says, or the empty string.
        title: The title that the fence gives it, or the empty string.
        text: What it holds.
        key: What the comment above it says of its test: `run`, `part of`, `synopsis` or `not run`.
        value: What stands behind that.
    """

    page: Path
    line: int
    section: str
    language: str
    title: str
    text: str
    key: str = "run"
    value: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines of a shell, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.split(" # ")[0].strip() for line in lines if line.strip()]


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page, in their order."""
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, match.start("fence")) + 1,
            (_HEADING.findall(text, 0, match.start()) or [""])[-1],
            match["language"],
            match["title"] or "",
            match["text"],
            match["key"] or "run",
            match["value"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]
