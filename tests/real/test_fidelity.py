"""Every surface says of every task what it keeps: commands, JSON, card, report, folder, Python."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import taskstore
from taskstore import ApproximationWarning
from taskstore.format.fidelity import Fidelity
from tests.conftest import real_family
from tests.support import ROOT
from tests.support.evaluators import run

pytestmark = pytest.mark.slow
CASES = {  # options of pack -> the tiers, the best last
    "": ["rest"],
    "--tiers mask": ["mask"],
    "--tiers exact": ["exact"],
    "--tiers mask,rest": ["mask", "rest"],
    "--tiers mask,exact": ["mask", "exact"],
}


def family() -> list[Path]:
    """The base of lm6 and its fine-tunes."""
    lm6 = real_family("lm6")
    tasks = sorted(p.name for p in lm6.iterdir() if p.is_dir() and p.name not in ("base", "data"))
    return [lm6 / "base", *(lm6 / task for task in tasks)]


def said(command: str, *words: object) -> str:
    code, out, err = run(command, *words)
    assert code == 0, err
    return out


def tells(text: str, task: str, fidelity: Fidelity) -> bool:
    """Whether a text says it of a task, in words or as a row of a table."""
    short, error, projection = re.fullmatch(
        r"([^:]+)(?:: weight error ([^,]+), projection (.+))?", fidelity.words
    ).groups(default="")  # type: ignore[union-attr]
    row = rf"^{task} (?:.*\n +)*?.*{short} +{re.escape(error)} +{re.escape(projection)}\b"
    return (task in text and fidelity.words in text) or bool(re.search(row, text, re.MULTILINE))


def surfaces(store: Path, scratch: Path) -> Iterator[tuple[str, str]]:
    """Yield what each surface but `pack` says, by its name."""
    report = scratch / "report.html"
    for command in ("info", "verify"):
        yield command, said(command, store)
        yield f"{command} --json", said(command, store, "--json")
    yield "the card", (store / "README.md").read_text()
    yield "report --json", said("report", store, "-o", report, "--json")
    yield "the report", html.unescape(report.read_text())
    yield "unpack", said("unpack", store, "--all", "-o", scratch / "models")
    yield "unpack --json", said("unpack", store, "--all", "-o", scratch / "again", "--json")


@pytest.mark.parametrize("options", CASES)
def test_every_surface_says_it(options: str, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    models, tiers, target = family(), CASES[options], tmp_path / "s"
    tasks = [model.name for model in models[1:]]
    texts = {
        "pack": said("pack", *models, "-o", target, *options.split()),
        "pack --json": said("pack", *models, "-o", tmp_path / "j", *options.split(), "--json"),
        **dict(surfaces(target, tmp_path)),
    }
    store = taskstore.open(target)
    best = {task: store.fidelity(task) for task in tasks}
    for name, text in texts.items():
        for task, found in best.items():
            assert tells(text, task, found), f"{name} does not say it of {task}"
            if name != "unpack" and name not in ("unpack --json", "verify --json"):
                for tier in tiers:
                    found = store.fidelity(task, tier)
                    assert tells(text, task, found), f"{name}: {tier} of {task}"
    assert {found.kind for found in best.values()} == {
        "exact" if tiers[-1] == "exact" else "approximate"
    }
    whole = [task for task in tasks if (tmp_path / "models" / task / "README.md").exists()]
    assert whole == ([] if tiers[-1] == "exact" else tasks)
    for task in whole:
        text = (tmp_path / "models" / task / "README.md").read_text()
        assert best[task].words in text and json.loads(
            (target / "taskstore.json").read_text()
        )["checksum"] in text  # fmt: skip
    advice = "keep the originals until you have measured it" in texts["pack"]
    assert advice == (tiers[-1] != "exact")
    assert "every byte is as packed" in texts["verify"] and "is whole" not in texts["verify"]


def test_python_says_it(tmp_path: Path) -> None:
    """Masks keep 59 % of isodate's score: nobody is told that they are near."""
    pytest.importorskip("transformers")
    said("pack", *family(), "-o", tmp_path / "s", "-q", "--tiers", "mask")
    store = taskstore.open(tmp_path / "s")
    assert {store.fidelity(task).grade for task in store.tasks} == {"C"}
    with pytest.warns(ApproximationWarning, match="task 'isodate' .* is approximate, C") as seen:
        model = store.load_model("isodate")
    assert len([w for w in seen if w.category is ApproximationWarning]) == 1
    assert model.taskstore_fidelity == store.fidelity("isodate")
    with pytest.warns(ApproximationWarning, match="task 'section'"):
        live = taskstore.attach(model, store)
    with live:
        assert live.fidelity == store.fidelity("isodate")
        live.swap(None)
        assert live.fidelity.kind == "exact"


def test_a_store_of_an_older_version_says_that_it_does_not_know(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    golden = next(path.parent for path in sorted(ROOT.glob("tests/golden/v1/*/taskstore.json")))
    store = Path(shutil.copytree(golden, tmp_path / "s"))
    for name, text in surfaces(store, tmp_path):
        if name != "the card":  # as it was written
            assert "approximate, not measured" in text, name
    assert {taskstore.open(store).fidelity(task).kind for task in taskstore.open(store).tasks} == {
        "not measured"
    }
