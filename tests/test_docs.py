"""The documents fit the tree: the map, links and anchors, paths, and the lists of pages."""

import fnmatch
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("commands", "projections", "stores", "http", "ops")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MOVES = ROOT / "docs" / "decisions" / "0016-one-subject-a-folder.md"
"""The one page that has to name paths that are gone."""

_FENCE = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(
    rf"(?:{'|'.join((*ROOMS, 'tests', 'docs'))})/[\w./*-]*|[\w./*-]+\.(?:py|sql|md)|\.ci/run"
)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def _anchors(page: Path) -> set[str]:
    """As GitHub and the site make them of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text)))
    return found


def _folders() -> set[str]:
    """The folders of the packages, and of the tests those at their top."""
    modules = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    modules += [ROOT / room / "x.py" for room in (*ROOMS, "tests")]
    modules += (ROOT / "tests").glob("*/*.py")
    modules += (ROOT / "stores").rglob("*.sql")
    return {_name(path.parent) for path in modules if "__pycache__" not in path.parts}


def _paths() -> list[str]:
    top = [path for path in ROOT.iterdir() if path.is_file()]
    below = [path for room in (*ROOMS, "tests", "docs", ".ci") for path in (ROOT / room).rglob("*")]
    return [_name(path) for path in (*top, *below)]


def test_the_map_of_the_architecture_is_the_tree() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    shown = text.partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    folders: list[str] = []
    above: list[str] = []
    for line in shown.splitlines():
        match = re.match(r"( *)([\w/]+)/ ", line)
        assert match is not None, f"no folder: {line}"
        above[len(match[1]) // 2 :] = [match[2]]
        folders.append("/".join(above))
    assert len(folders) == len(set(folders))
    assert set(folders) == _folders()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_prose(page)):
        if re.match("[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link}: no such file"
        if anchor:
            assert anchor in _anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if page != MOVES], ids=_name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    """Paths from the root, or the last parts of one: `rows.py` is enough where it is clear."""
    paths = _paths()
    for token in _CODE.findall(_prose(page)):
        if _PATH.fullmatch(token) and token != "__init__.py" and not token.startswith("build/"):
            ends = f"*/{token.rstrip('/')}*"
            assert any(fnmatch.fnmatch(f"/{path}", ends) for path in paths), token


def test_every_page_is_in_the_site_and_in_the_index() -> None:
    site, index = ((ROOT / name).read_text() for name in ("mkdocs.yml", "docs/index.md"))
    for page in PAGES:
        assert f" {_name(page)}\n" in site, page
        if page.parent == ROOT / "docs" and page.name != "index.md":
            assert f"({page.name})" in index, page


def test_the_index_of_decisions_names_each_with_date_and_status() -> None:
    folder = ROOT / "docs" / "decisions"
    rows = (folder / "index.md").read_text()
    for page in folder.glob("0*.md"):
        row = re.compile(rf"\| {page.name[:4]} \| \[.+\]\({page.name}\) \| \d{{4}}-\d\d-\d\d \| \w")
        assert row.search(rows), page.name
