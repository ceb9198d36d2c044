"""Greedy soups against the published loop in plain torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import taskstore
from taskstore.errors import EvaluationFailed, InputError
from taskstore.evaluation.journal import Journal
from taskstore.merging import MergeOptions
from taskstore.merging.search.greedy_soup import Soup, greedy_soup
from taskstore.merging.search.origins import Folders, Stored
from taskstore.merging.search.scoring import Scorer
from tests.support import families
from tests.support.evaluators import run, script
from tests.support.families import Family, State

OPTIONS = MergeOptions("average", chunk=512, jobs=2)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Float32 fine-tunes of unequal strength."""
    base = families.random_state(0, torch.float32)
    names = ["alpha", "beta", "gamma", "delta", "epsilon"]
    tasks = {name: families.tuned(base, i, 0.002 * (i + 1)) for i, name in enumerate(names)}
    return Family(tmp_path_factory.mktemp("five"), base, tasks)


def soup(family: Family, target: Path, scorer: Scorer, **changes: object) -> Soup:
    options = MergeOptions("average", **{"chunk": 512, "jobs": 2, **changes})  # type: ignore[arg-type]
    return greedy_soup(Folders(family.base_path, family.paths), target, options, scorer)


def goal(family: Family, seed: int) -> State:
    """What a hidden task would want: some mixture of the fine-tunes, and noise."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(len(family.tasks), generator=generator)
    share = share / share.sum()
    return {
        name: sum(w * s[name] for w, s in zip(share, family.tasks.values(), strict=True))
        + 0.002 * torch.randn(base.shape, generator=generator)
        for name, base in family.base.items()
    }


def distance(state: State, wanted: State) -> float:
    return float(sum(((state[n].double() - w.double()) ** 2).sum() for n, w in wanted.items()))


def published(family: Family, wanted: State) -> tuple[list[str], list[str], State]:
    """The authors' loop with a running mean: order, ingredients, soup."""
    loss = {name: distance(state, wanted) for name, state in sorted(family.tasks.items())}
    order = sorted(loss, key=lambda name: loss[name])
    pot: dict[str, Tensor] = {n: t.double() for n, t in family.tasks[order[0]].items()}
    best, used = loss[order[0]], [order[0]]
    for name in order[1:]:
        n = len(used)
        new = {
            k: pot[k] * (n / (n + 1.0)) + family.tasks[name][k].double() * (1.0 / (n + 1))
            for k in pot
        }
        if distance(new, wanted) < best:
            pot, best, used = new, distance(new, wanted), [*used, name]
    return order, used, pot


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("minimise", [False, True])
def test_it_is_the_published_loop(five: Family, tmp_path: Path, seed: int, minimise: bool) -> None:
    wanted = goal(five, seed)
    sign = 1 if minimise else -1
    scorer = Scorer(
        lambda model, _: sign * distance(load_file(model / "model.safetensors"), wanted),
        minimise=minimise,
        scratch=tmp_path,
    )
    found = soup(five, tmp_path / "out", scorer)
    order, used, pot = published(five, wanted)
    assert [i.model for i in found.ingredients] == order
    assert [i.model for i in found.ingredients if i.kept] == used
    state = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in pot.items():
        torch.testing.assert_close(state[name].double(), tensor, atol=1e-7, rtol=1e-5)
    assert sign * found.scores.mean == pytest.approx(distance(state, wanted))
    assert found.report.models == sorted(used)
    assert os.listdir(tmp_path) == ["out"]


def test_some_seeds_keep_some_and_leave_some(five: Family) -> None:
    """So that the comparison above says something."""
    sizes = {len(published(five, goal(five, seed))[1]) for seed in range(4)}
    assert sizes & {2, 3, 4}
    assert len(sizes) > 1


def test_only_what_is_strictly_better_is_kept(five: Family, tmp_path: Path) -> None:
    scorer = Scorer(lambda *_: 0.5, label="eval.py {model}")
    found = soup(five, tmp_path / "out", scorer)
    kept = {i.model: i.kept for i in found.ingredients}
    assert list(kept) == ["alpha", "beta", "delta", "epsilon", "gamma"]
    assert [name for name in kept if kept[name]] == ["alpha"]
    state = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in five.tasks["alpha"].items():
        torch.testing.assert_close(state[name], tensor, atol=1e-8, rtol=1e-6)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Greedy soup" in card
    assert "Scored with `eval.py {model}`" in card
    assert "| alpha | 0.5 |  | ingredient |" in card
    assert "| beta | 0.5 | 0.5 | left out |" in card
    told = found.to_dict()["soup"]
    assert told["score"] == 0.5
    assert told["ingredients"][0]["score_with_it"] is None
    assert told["ingredients"][1] == {
        "model": "beta", "score": 0.5, "scores": {}, "score_with_it": 0.5, "scores_with_it": {},
        "kept": False,
    }  # fmt: skip


def test_the_mean_over_tasks_counts(five: Family, tmp_path: Path) -> None:
    """One task likes beta alone, more than the other likes alpha alone."""

    def score(model: Path, task: str) -> float:
        likes = {"one": ("alpha", 1.0), "two": ("beta", 3.0)}[task]
        return likes[1] if model == five.paths[likes[0]] else 0.0

    found = soup(five, tmp_path / "out", Scorer(score, tasks=("one", "two")))
    assert [i.model for i in found.ingredients if i.kept] == ["beta"]
    assert found.scores.tasks == {"one": 0, "two": 3}
    assert found.scores.mean == 1.5


def test_an_interrupted_soup_goes_on(five: Family, tmp_path: Path) -> None:
    """Five alone and four with another are nine scores; the seventh is interrupted."""
    wanted, calls = goal(five, 0), list[int]()

    def score(model: Path, _: str) -> float:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return -distance(load_file(model / "model.safetensors"), wanted)

    journal = tmp_path / "journal"
    with pytest.raises(KeyboardInterrupt):
        soup(five, tmp_path / "out", Scorer(score, Journal(journal)))
    assert os.listdir(tmp_path) == ["journal"]
    found = soup(five, tmp_path / "out", Scorer(score, Journal(journal)))
    assert len(calls) == 10
    assert [i.model for i in found.ingredients if i.kept] == published(five, wanted)[1]


def test_adapters_become_models(tmp_path: Path) -> None:
    """Three ingredients: a LoRA adapter, a single weight file, a folder that is scored as it is."""
    name = "layer.weight"
    base = {name: torch.zeros(4, 3)}
    base_path = families.save(tmp_path / "base", base)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["layer"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    a, b = torch.ones(1, 3), torch.ones(4, 1)
    prefix = "base_model.model.layer"
    save_file(
        {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b},
        adapter / "adapter_model.safetensors",
    )
    save_file({name: torch.full((4, 3), 4.0)}, tmp_path / "file.safetensors")
    folder = families.save(tmp_path / "folder", {name: torch.full((4, 3), -9.0)})
    models = {"adapter": adapter, "file": tmp_path / "file.safetensors", "folder": folder}
    seen: list[Path] = []

    def score(model: Path, _: str) -> float:
        seen.append(model)
        return -abs(float(load_file(model / "model.safetensors")[name].mean()) - 3)

    origin = Folders(base_path, models)
    options = MergeOptions("average", unrelated=True)
    found = greedy_soup(origin, tmp_path / "out", options, Scorer(score))
    alone = {i.model: i.alone.mean for i in found.ingredients}
    assert alone == {"adapter": -1, "file": -1, "folder": -12}
    assert [i.model for i in found.ingredients if i.kept] == ["adapter", "file"]
    assert load_file(tmp_path / "out" / "model.safetensors")[name].tolist() == [[3.0] * 3] * 4
    assert folder in seen
    assert adapter not in seen


def test_a_head_comes_from_the_best(tmp_path: Path) -> None:
    base = families.random_state(0)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two", "three"))}
    for i, state in enumerate(tasks.values()):
        state["head.weight"] = torch.full((2, 2), float(i))
    family = Family(tmp_path, base, tasks)

    def head(model: Path, _: str) -> float:
        return float(load_file(model / "model.safetensors")["head.weight"].mean())

    found = soup(family, tmp_path / "out", Scorer(head), private_from="one")
    assert [i.model for i in found.ingredients if i.kept] == ["three"]
    assert found.scores.mean == 2


def test_a_soup_of_a_store(packed: Path, small: Family, tmp_path: Path) -> None:
    def score(model: Path, _: str) -> float:
        return -distance(load_file(model / "model.safetensors"), small.tasks["beta"])

    origin = Stored(taskstore.open(packed))
    found = greedy_soup(origin, tmp_path / "out", OPTIONS, Scorer(score))
    assert found.ingredients[0].model == "beta"
    rebuilt = taskstore.open(packed).unpack("beta", tmp_path / "beta")
    assert found.ingredients[0].alone.mean == pytest.approx(score(rebuilt, ""))


@pytest.mark.parametrize(
    "change", [{"alpha": 0.5}, {"weights": {"beta": 2}}, {"tokenizer_from": "zeta"}]
)
def test_what_a_soup_has_not(five: Family, tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(InputError, match="plain average|none of the models"):
        soup(five, tmp_path / "out", Scorer(lambda *_: 1.0), **change)
    assert not (tmp_path / "out").exists()


def test_the_command(small: Family, tmp_path: Path) -> None:
    """Alone beta is best, and nothing makes it better."""
    command = script(tmp_path, "print('beta' in os.path.basename(model) and 2 or 1)")
    words = ("merge", small.base_path, *small.paths.values(), "--method", "greedy-soup", "--eval")
    code, shown, err = run(*words, command, "-o", tmp_path / "out")
    assert code == 0, err
    _, *lines = [line.split() for line in shown.splitlines()]
    assert lines[0] == [
        "fine-tune", "alpha", "beta", "gamma", "alone", "soup", "with", "it"
    ]  # fmt: skip
    assert lines[1] == ["beta", "2", "2", "2", "2", "kept"]
    assert lines[2] == ["alpha", "1", "1", "1", "1", "1", "left", "out"]
    assert "beta + alpha: 1 (alpha 1, beta 1, gamma 1)" in err
    assert sorted(os.listdir(tmp_path)) == ["eval it.py", "out"]
    code, shown, err = run(*words, command, "--json", "--overwrite", "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    found = json.loads(shown)
    assert [i["model"] for i in found["soup"]["ingredients"]] == ["beta", "alpha", "gamma"]
    assert found["models"] == ["beta"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "--method greedy_soup needs --eval"),
        (["--eval", "x {model}", "--plot", "x.json"], 2, "has no grid and no --plot"),
        (["--eval", "x {model}", "--alpha", "0.1,0.2"], 2, "has no grid and no --plot"),
        (["--eval", "x {model}", "--alpha", "auto"], 2, "--alpha has no published grid"),
        (["--eval", "x {model}", "--alpha", "0.2"], 2, "a greedy soup is a plain average"),
    ],
)
def test_errors_of_the_command(
    small: Family, tmp_path: Path, words: list[str], status: int, message: str
) -> None:
    models = list(small.paths.values())
    method = ("--method", "greedy_soup")
    code, _, err = run("merge", small.base_path, *models, *method, *words, "-o", tmp_path / "out")
    assert code == status
    assert message in err
    assert not os.listdir(tmp_path)


def test_it_is_listed_and_no_method_of_a_store(small: Family, tmp_path: Path) -> None:
    _, shown, _ = run("methods")
    assert "greedy_soup: Greedy soup, Wortsman et al., arXiv 2203.05482" in shown
    assert list(json.loads(run("methods", "Greedy-Soup", "--json")[1])["methods"]) == [
        "greedy_soup"
    ]
    code, _, err = run(
        "pack",
        small.base_path,
        small.paths["beta"],
        "--method",
        "greedy_soup",
        "-o",
        tmp_path / "s",
    )
    assert code == 2
    assert "taskstore merge BASE MODEL... --method greedy_soup --eval CMD -o DIR" in err
    with pytest.raises(InputError, match="did you mean 'greedy_soup'"):
        MergeOptions("gredy_soup")


def test_a_fine_tune_that_fails_is_no_ingredient(small: Family, tmp_path: Path) -> None:
    """It is listed, and the soup is that of the others; if all fail, the last error ends it."""
    beta = small.paths["beta"]

    def fails(model: Path, task: str) -> float:
        if model == beta:
            raise EvaluationFailed(task, "ended with status 3", "")
        return float(model.name == "alpha")

    origin = Folders(small.base_path, small.paths)
    found = greedy_soup(origin, tmp_path / "out", MergeOptions("average"), Scorer(fails))
    assert [i.model for i in found.ingredients] == ["alpha", "gamma"]
    assert found.to_dict()["soup"]["failed"] == {
        "beta": "the evaluation of 'beta' ended with status 3"
    }
    assert "- beta: the evaluation" in (tmp_path / "out" / "README.md").read_text()

    def always(_: Path, task: str) -> float:
        raise EvaluationFailed(task, "ended with status 4", "")

    with pytest.raises(EvaluationFailed, match="of 'gamma' ended with status 4"):
        greedy_soup(origin, tmp_path / "none", MergeOptions("average"), Scorer(always))
    assert not (tmp_path / "none").exists()
