"""Links, anchors and pictures of the pages."""

import re
from pathlib import Path

import pytest

from gengen.runs import discover

ROOT = Path(__file__).parents[1]
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
]
LINK = re.compile(r"\]\((?![a-z]+:)([^()\s]+)\)|(?:src|href)=\"(?![a-z]+:)([^\"]+)\"")


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(path.relative_to(ROOT).as_posix()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for match in LINK.finditer(prose(page)):
        target, _, anchor = (match[1] or match[2]).partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(path.resolve()), f"{page}: {target}#{anchor}"


def test_every_picture_is_shown():
    text = "".join(map(prose, PAGES))
    pictures = sorted(path.name for path in (ROOT / "docs" / "images").iterdir())
    assert [name for name in pictures if f"images/{name}" not in text] == []


def test_every_model_has_a_course_topic():
    topics = (ROOT / "docs" / "TOPICS.md").read_text(encoding="utf-8")
    assert [m.name for m in discover.models() if f"/{m.name}.py)" not in topics] == []
