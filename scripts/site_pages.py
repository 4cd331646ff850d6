"""What the site does to the documents: links out of `docs/`, the list of decisions, new pages.

Links that lead out of `docs/` become words: the site has no other files. A page that `mkdocs.yml`
does not place yet is found under the guides.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parents[1] / "docs"
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]*)(?:#[^)]*)?\)")
_LIST_HERE = "<!-- decisions -->"


def on_config(config: Any, **_: object) -> Any:
    """Place the pages that nobody placed."""
    placed = set(re.findall(r"[\w-]+\.md", str(config["nav"])))
    guides: list[str] = next(part["Guides"] for part in config["nav"] if "Guides" in part)
    guides += sorted(page.name for page in _DOCS.glob("*.md") if page.name not in placed)
    return config


def on_page_markdown(markdown: str, **_: object) -> str:
    """Name the file in the repository where a page links to it; list the decisions."""
    if _LIST_HERE in markdown:
        return markdown.replace(_LIST_HERE, "\n".join(_decisions()))
    return _OUTSIDE.sub(_named, markdown)


def _named(link: re.Match[str]) -> str:
    inside = _DOCS / link[2]
    return link[0] if inside.exists() else f"{link[1]} (`{link[2]}` in the repository)"


def _decisions() -> list[str]:
    found = []
    for record in sorted((_DOCS / "adr").glob("*.md")):
        title = record.read_text().partition("\n")[0].removeprefix("# ").strip()
        found.append(f"* [{title}](adr/{record.name})")
    return found
