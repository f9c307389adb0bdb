"""MkDocs hooks: front page from the README, API reference, links to files outside docs/.

Pages of docs/ link to each other and to files of the repository by relative paths, which work where
the repository is browsed. On the site, a link to a module leads to its API reference, and a link to
another file to a page that shows it.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from latex2mathml.converter import convert as mathml
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z+]+:|#)([^()\s#]+)(#[^()\s]*)?(?=\))")
BADGE = re.compile(r"\[!\[.*?\]\(.*?\)\]\(.*?\)")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)
HIDDEN = "---\nsearch: {exclude: true}\n---\n"  # from the search
LANGUAGES = {".py": "python", ".json": "json", ".toml": "toml", ".yml": "yaml", ".sh": "sh"}


def packages() -> dict[str, list[str]]:
    """Module names by package: `gengen` holds those of the top level."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "gengen").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] in ("__init__", "__main__"):
            continue
        found.setdefault(parts[1] if len(parts) > 2 else "gengen", []).append(".".join(parts))
    return {"gengen": found.pop("gengen"), **found}


def on_config(config):
    """Append the API reference to the navigation, before the last tab."""
    config.watch += [str(ROOT / "gengen"), *(str(ROOT / name) for name in PAGES)]
    reference = [{_title(name): f"reference/{name}.md"} for name in packages()]
    config.nav.insert(-1, {"API": reference})
    return config


def on_files(files, *, config):
    """Add pages that are no files of docs/."""
    pages = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in PAGES.items()}
    pages |= {f"reference/{name}.md": _reference(name, of) for name, of in packages().items()}
    linked = set()
    for name in [*PAGES, *(f.src_uri for f in files.documentation_pages())]:
        path = ROOT / name if name in PAGES else ROOT / "docs" / name
        for match in LINK.finditer(path.read_text(encoding="utf-8")):
            target = _in_repository(path, match[1])
            if target and _page(target).startswith("source/"):
                linked.add(target)
    pages |= {_page(target): _source(target) for target in linked}
    for uri, content in pages.items():
        shown = InclusionLevel.NOT_IN_NAV if uri.startswith("source/") else InclusionLevel.INCLUDED
        files.append(File.generated(config, uri, content=content, inclusion=shown))
    return files


def on_page_markdown(markdown, *, page, config, files):
    """Point links to files of the repository to their pages on the site."""
    uri = page.file.src_uri
    origin = {page: name for name, page in PAGES.items()}.get(uri)
    path = ROOT / origin if origin else ROOT / "docs" / uri

    def moved(match: re.Match) -> str:
        target = _in_repository(path, match[1])
        if target is None:
            return match[0]
        anchor = match[2] or ""
        if target.startswith("gengen/") and target.endswith(".py"):
            anchor = "#" + target.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return posixpath.relpath(_page(target), posixpath.dirname(uri) or ".") + anchor

    return LINK.sub(moved, markdown)


def _in_repository(path: Path, link: str) -> str | None:
    """Path from the root of what a page links to, None where nothing is there."""
    target = (path.parent / unquote(link)).resolve()
    if not target.is_relative_to(ROOT) or not target.exists():
        return None
    return target.relative_to(ROOT).as_posix()


def _page(target: str) -> str:
    """URI of the site's page for a file or folder of the repository."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    first, *rest = target.split("/")
    if first == "gengen" and (target.endswith(".py") or (ROOT / target).is_dir()):
        name = rest[0] if rest and (ROOT / "gengen" / rest[0]).is_dir() else "gengen"
        return f"reference/{name}.md"
    return f"source/{target}.md"


def _title(package: str) -> str:
    return package if package == "gengen" else f"gengen.{package}"


def _reference(package: str, modules: list[str]) -> str:
    """The page of a package: its docstring, then each module."""
    title = _title(package)
    lines = [f"# {title}", "", f"::: {title}", "    options:", "      members: false",
             "      show_root_heading: false", "      show_root_toc_entry: false", ""]  # fmt: skip
    return "\n".join(lines + [f"::: {module}\n" for module in modules])


def _source(target: str) -> str:
    """A page that shows a file, or lists a folder."""
    path = ROOT / target
    title = f"# `{target}`\n\n"
    if path.is_dir():
        return title + "\n".join(f"- `{child.name}`" for child in sorted(path.iterdir()))
    if path.suffix == ".ipynb":  # the notebook as its cells
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return HIDDEN + "\n\n".join(map(_cell, cells))
    language = LANGUAGES.get(path.suffix, "text")
    return f"{HIDDEN}{title}~~~~{language}\n{path.read_text(encoding='utf-8')}\n~~~~\n"


def _cell(cell: dict) -> str:
    text = "".join(cell["source"])
    if cell["cell_type"] != "markdown":
        return f"~~~~python\n{text}\n~~~~"
    text = BADGE.sub("", text)
    return FORMULA.sub(lambda m: f"<span>{mathml(m[1] or m[2])}</span>", text)
