"""How Sphinx builds the documentation: `make docs`, into build/docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in (".", "cli", "serving")]

from taskstore import __version__  # noqa: E402

project = "taskstore"
author = "the authors of taskstore"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_click",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["vllm"]
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"taskstore {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False

# What is copied from a session is its commands, without their outputs.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

highlight_language = "text"  # of blocks that name none
smartquotes = False  # options have two hyphens
default_role = "literal"  # `names` in docstrings


def plain(lines: list[str]) -> None:
    """Make reStructuredText of a plain docstring: what is indented stands as it is written."""
    indented, done = False, []
    for line in lines:
        if line[:1] == " " and not indented:
            done += ["", "::", ""]
        elif line[:1].strip() and indented:
            done += [""]
        indented = line[:1] == " " or (indented and not line)
        done.append(line if indented or line.startswith(">>>") else escaped(line))
    lines[:] = done


def escaped(line: str) -> str:
    """A line of prose in which bars and stars are themselves."""
    words = re.split(r"(`[^`]*`)", line)
    return "".join(w if w[:1] == "`" else re.sub(r"(?<!\\)([|*])", r"\\\1", w) for w in words)


def helped(lines: list[str]) -> None:
    """The same of a help text, in which sphinx-click puts a bar before what keeps its lines."""
    plain(kept := [re.sub(r"^\| ", "    ", line) for line in lines])
    lines[:] = kept


def options(lines: list[str]) -> None:
    """Escape what is prose in a list of options; their names are directives."""
    for i, line in enumerate(lines):
        if not line.startswith(".."):
            lines[i] = escaped(line).replace(r"\*\*Required\*\*", "**Required.**")


def setup(app: Sphinx) -> None:
    """Read docstrings and help texts as the plain text that they are."""
    app.connect("autodoc-process-docstring", lambda *event: plain(event[-1]))
    for what in ("description", "epilog"):
        app.connect(f"sphinx-click-process-{what}", lambda *event: helped(event[-1]))
    for what in ("options", "arguments"):
        app.connect(f"sphinx-click-process-{what}", lambda *event: options(event[-1]))
