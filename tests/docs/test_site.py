"""The documentation builds without a warning, and has every command as it is."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from taskstore_cli.main import main

from tests.support import ROOT

DOCS = ROOT / "docs"
BESIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/RESULTS.md",
    "examples/README.md",
)
pytestmark = pytest.mark.skipif(
    not DOCS.is_dir(), reason="the documentation is not part of an installed taskstore"
)
COMMANDS = sorted(name for name, command in main.commands.items() if not command.hidden)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(target / "doctrees")]
    done = subprocess.run(
        [sys.executable, *words, str(DOCS), str(target / "html")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target / "html"


def words(text: str) -> str:
    """Text as it is read: without tags, marks of its markup and line ends."""
    seen = html.unescape(re.sub(r"<[^>]+>", "", text))
    return re.sub(r"[\s`\x08]+", "", seen)


def helps(command: click.Command) -> Iterator[str]:
    """What `--help` says, in pieces: the text, each option's names and its help."""
    yield from (command.help or "").replace("\f", "\n").split("\n\n")
    yield from (command.epilog or "").split("\n\n")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from parameter.opts
            yield parameter.help or ""


@pytest.mark.xdist_group("site")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_site_has_all_that_help_says(name: str, site: Path) -> None:
    page = words((site / "cli.html").read_text())
    missing = [piece for piece in helps(main.commands[name]) if words(piece) not in page]
    assert not missing


@pytest.mark.xdist_group("site")
def test_every_page_is_reached_from_the_index(site: Path) -> None:
    """Sphinx warns of pages outside of all lists; this sees that the lists are on the index."""
    index = (site / "index.html").read_text()
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert [page for page in pages if f'href="{page}"' not in index and page.stem != "index"] == []


def test_the_readme_has_every_command() -> None:
    table = (ROOT / "README.md").read_text().partition("## Commands")[2].partition("##")[0]
    assert [name for name in COMMANDS if f"`{name}`" not in table] == []


@pytest.mark.parametrize("name", BESIDE)
def test_links_from_outside_the_site_lead_somewhere(name: str) -> None:
    """Sphinx looks at those of the site itself."""
    page = ROOT / name
    found = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in found if not (page.parent / link).exists()] == []
