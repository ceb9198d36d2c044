"""The notebook among the examples runs from its first cell to its last, and shows what it says."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest

from tests.support import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
NOTEBOOK = ROOT / "examples/numerals.ipynb"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The cells of the notebook, run in a kernel of this very Python; nothing is written here."""
    place = tmp_path_factory.mktemp("notebook")
    for name in ("family", "data", "evaluate.py"):
        (place / name).symlink_to(ROOT / "examples" / name)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that talk with the kernel
        client.execute(env={**os.environ, "TMPDIR": str(place), "JUPYTER_PLATFORM_DIRS": "1"})
    return notebook.cells


def output(cells: Any, start: str) -> str:
    """What the cell that begins so has written and shown."""
    (cell,) = (cell for cell in cells if cell.source.startswith(start))
    found = []
    for one in cell.outputs:
        found += [one.text] if "text" in one else list(one.get("data", {}).values())
    return "\n".join(found)


def test_the_notebook_shows_what_it_says(cells: Any) -> None:
    packed = output(cells, "options =")
    assert "times smaller than the five models" in packed and "100%" in packed
    shown = output(cells, "store = taskstore.open")
    assert "<table>" in shown and "<td>spanish</td>" in shown
    assert "all right" in output(cells, "checked =")
    assert output(cells, "model =").endswith("['CCCXII', 'MCMXCIX']")
    assert "'german': ['dreihundertzwoelf', " in output(cells, "with taskstore.attach")
    assert "exact match " in output(cells, "taskstore.open")


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not c.outputs and c.execution_count is None for c in code)
