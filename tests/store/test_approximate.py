"""Who holds a rebuilt model sees what it is: a card in its folder, an attribute, a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import taskstore
from taskstore import ApproximationWarning
from taskstore.store.card import write
from tests.support import families, forge
from tests.support.families import Family, contents, options
from tests.support.modules import Named

OWN = "---\nlicense: mit\n---\n# My model\n"


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """One of the tasks has a card, one a card without front matter, one none."""
    made = families.family(tmp_path / "family")
    (made.paths["alpha"] / "README.md").write_text(OWN)
    (made.paths["beta"] / "README.md").write_text("# Beta\n")
    return made


def packed(family: Family, target: Path, tiers: str) -> taskstore.Store:
    taskstore.pack(family.base_path, family.paths, target, options(tiers=tiers))
    return taskstore.open(target)


@pytest.mark.parametrize("tiers", ["mask", "rest"])
def test_the_card_of_an_approximation(tiers: str, family: Family, tmp_path: Path) -> None:
    store = packed(family, tmp_path / "s", tiers)
    store.unpack_all(tmp_path / "m")
    for task in store.tasks:
        text = (tmp_path / "m" / task / "README.md").read_text()
        for said in (task, store.fidelity(task).words, "not measured", f"| tier | {tiers} |",
                     forge.load(store.path)["checksum"]):  # fmt: skip
            assert said in text
    alpha, beta, gamma = ((tmp_path / "m" / task / "README.md").read_text() for task in store.tasks)
    assert alpha.startswith("---\nlicense: mit\n---\n\n# alpha\n") and alpha.endswith(
        "# My model\n"
    )
    assert beta.startswith('---\nbase_model: "base"\n') and beta.endswith("\n# Beta\n")
    assert gamma.startswith('---\nbase_model: "base"\n')


def test_what_is_exact_comes_back_as_it_was(family: Family, tmp_path: Path) -> None:
    store = packed(family, tmp_path / "s", "mask,exact")
    for task in (None, *store.tasks):
        original = family.base_path if task is None else family.paths[task]
        assert contents(store.unpack(task, tmp_path / str(task))) == contents(original)
    store.unpack("gamma", tmp_path / "mask", tier="mask")
    assert store.fidelity("gamma", "mask").words in (tmp_path / "mask" / "README.md").read_text()


@pytest.mark.parametrize("raw", [b"---\r\na: b\r\n---\r\n# X\r\n", b"---\nnever closed\n", b"\xff"])
def test_any_card_stays(raw: bytes, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(raw)
    write(taskstore.open(packed).manifest, "alpha", None, tmp_path)
    found = (tmp_path / "README.md").read_bytes()
    head = raw[: raw.find(b"# X")] if b"# X" in raw else b""
    assert found.startswith(head or b"---\nbase_model") and found.endswith(raw[len(head) :])
    assert b"not the fine-tune itself" in found


def test_a_grade_below_the_line_warns_once(small: Family, tmp_path: Path) -> None:
    store = packed_(small, tmp_path / "s", "mask,exact")
    assert store.fidelity("alpha", "mask").grade == "C"
    with pytest.warns(ApproximationWarning, match=r"task 'alpha' .* is approximate, C") as seen:
        store.state_dict("alpha", tier="mask")
    assert Path(seen[0].filename) == Path(__file__)
    with pytest.warns(ApproximationWarning, match="'beta'") as seen:
        store.tensor("beta", "norm.weight", tier="mask")
    assert Path(seen[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.state_dict("alpha", tier="mask")
        store.state_dict("alpha")
        store.state_dict(None)


def packed_(small: Family, target: Path, tiers: str, **more: object) -> taskstore.Store:
    taskstore.pack(small.base_path, small.paths, target, options(tiers=tiers, **more))
    return taskstore.open(target)


def test_what_is_near_does_not_warn(small: Family, tmp_path: Path) -> None:
    store = packed_(small, tmp_path / "s", "rest", residual=4)
    assert store.fidelity("alpha").grade == "A"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.state_dict("alpha")


def test_an_older_store_warns(small: Family, tmp_path: Path) -> None:
    store = packed_(small, tmp_path / "s", "mask")
    forge.make_older(store.path, 1)
    with pytest.warns(ApproximationWarning, match="approximate, not measured"):
        taskstore.open(store.path).state_dict("alpha")


def test_a_live_module_says_what_it_is(small: Family, tmp_path: Path) -> None:
    store = packed_(small, tmp_path / "s", "mask,exact")
    module = Named(small.base)
    with pytest.warns(ApproximationWarning, match="task 'alpha'"):
        live = taskstore.attach(module, store)
    with live:
        assert live.fidelity.kind == "exact"
        live.swap("alpha")
        assert live.fidelity == store.fidelity("alpha", "mask")
