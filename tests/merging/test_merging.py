"""Merged models: equal to whole-model computations, with nothing dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from taskstore_cli.main import main

import taskstore
from taskstore.errors import (
    ChecksumMismatch,
    InputError,
    NotFinite,
    NotOneFamily,
    OutputError,
    TargetExists,
    UnknownTask,
)
from taskstore.merging import MergeOptions, MergeReport, merge, merge_store
from tests.cli.test_cli import run
from tests.support import families, oddly, oracle
from tests.support.families import Family, State, same

Model = tuple[MergeReport, State]


def merged(family: Family, target: Path, method: str = "sum", **changes: object) -> Model:
    options = MergeOptions(method, **{"chunk": 512, "jobs": 2, **changes})  # type: ignore[arg-type]
    report = merge(family.base_path, family.paths, target, options)
    state: State = {}
    for file in target.glob("*.safetensors"):
        state |= load_file(file)
    return report, state


def vectors(family: Family) -> dict[str, State]:
    return oracle.task_vectors(family.base, family.tasks)


def expected(family: Family, alpha: float, dtype: torch.dtype | None = None) -> State:
    """round(theta_0 + alpha sum tau), whole tensors at once."""
    found = vectors(family)
    return {
        name: (base.float() + alpha * oracle.merged_sum(found, name)).to(dtype or base.dtype)
        for name, base in family.base.items()
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("alpha", [1.0, 0.3, -0.5])
def test_task_arithmetic_equals_plain_torch(
    tmp_path: Path, dtype: torch.dtype, alpha: float
) -> None:
    family = families.family(tmp_path, 3, dtype)
    _, state = merged(family, tmp_path / "out", alpha=alpha)
    wanted = expected(family, alpha)
    assert state.keys() == wanted.keys()
    assert all(same(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_output_may_have_another_dtype(small: Family, tmp_path: Path, dtype: str) -> None:
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    _, state = merged(small, tmp_path / "out", alpha=0.4, dtype=dtype)
    wanted = expected(small, 0.4, kind)
    assert all(same(state[name], wanted[name]) for name in wanted)


def test_config_names_the_dtype_of_the_output(tmp_path: Path) -> None:
    family = families.family(tmp_path / "family")
    config = {"model_type": "test", "torch_dtype": "bfloat16"}
    (family.base_path / "config.json").write_text(json.dumps(config))
    merged(family, tmp_path / "out", dtype="F16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == {"model_type": "test", "torch_dtype": "float16"}


@pytest.mark.parametrize("method", ["sum", "ties", "lsq"])
def test_blocks_and_threads_do_not_matter(small: Family, tmp_path: Path, method: str) -> None:
    _, one = merged(small, tmp_path / "one", method)
    for i, (chunk, jobs) in enumerate([(8, 1), (1000, 3), (1 << 20, 2)]):
        _, other = merged(small, tmp_path / f"{i}", method, chunk=chunk, jobs=jobs)
        assert all(same(one[name], other[name]) for name in one)


def test_ties_is_the_mean_over_the_whole_model(small: Family, tmp_path: Path) -> None:
    _, state = merged(small, tmp_path / "out", "ties", alpha=0.7)
    mean = oracle.merged_ties(vectors(small), mean=True)
    for name, base in small.base.items():
        assert same(state[name], (base.float() + torch.tensor(0.7) * mean[name]).to(base.dtype))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alpha", [1e39, -1e300])
def test_an_alpha_past_float32_overflows(small: Family, tmp_path: Path, alpha: float) -> None:
    with pytest.raises(InputError, match="overflows"):
        merged(small, tmp_path / "out", alpha=alpha)
    assert not (tmp_path / "out").exists()


def test_weights_may_be_negative(small: Family, tmp_path: Path) -> None:
    weights = {"alpha": 0.5, "gamma": -1.0}
    report, state = merged(small, tmp_path / "out", weights=weights)
    assert report.weights == {"alpha": 0.5, "beta": 1.0, "gamma": -1.0}
    found = vectors(small)
    for name, base in small.base.items():
        tau = 0.5 * found["alpha"][name] + found["beta"][name] - found["gamma"][name]
        assert same(state[name], (base.float() + tau).to(base.dtype))


def test_a_weight_that_is_given_twice_is_refused(small: Family, tmp_path: Path) -> None:
    words = ["--weight", "alpha=1", "--weight", "alpha=2", "-o", str(tmp_path / "out")]
    models = [str(small.base_path), *map(str, small.paths.values())]
    result = run("merge", *models, "--method", "sum", *words)
    assert result.exit_code == 2
    assert "--weight of alpha is given twice" in result.stderr


def test_shards_and_files_beside_the_weights(small: Family, tmp_path: Path) -> None:
    report, state = merged(small, tmp_path / "out", shard_bytes=2000, alpha=0.3)
    wanted = expected(small, 0.3)
    assert all(same(state[name], wanted[name]) for name in wanted)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == wanted.keys()
    assert index["metadata"]["total_size"] == report.bytes
    assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"shared": true}'
    card = (tmp_path / "out" / "README.md").read_text()
    assert "3 fine-tunes of base, merged" in card
    assert "`sum`, alpha 0.3" in card
    merged(small, tmp_path / "own", tokenizer_from="beta")
    assert (tmp_path / "own" / "own.txt").read_text() == "beta"


def test_what_cannot_be_merged_is_listed(tmp_path: Path) -> None:
    """Tied and grown tensors, heads, integers, other dtypes, a tensor that a task lacks."""
    family = oddly.rich_family(tmp_path / "family")
    report, state = merged(family, tmp_path / "out")
    assert state.keys() == family.base.keys()
    assert same(state["lm_head.weight"], state["embed_tokens.weight"])
    assert same(state["ids"], family.base["ids"])
    rows = family.base["embed_tokens.weight"].shape[0]
    found = oracle.task_vectors(
        family.base,
        {
            task: {n: t[:rows] if n in ("embed_tokens.weight", "lm_head.weight") else t for n, t in
                   own.items()}
            for task, own in family.tasks.items()
        },
    )  # fmt: skip
    for name, base in family.base.items():
        if name != "ids":
            wanted = (base.float() + oracle.merged_sum(found, name)).to(base.dtype)
            assert same(state[name], wanted), name
    notes = report.notes
    assert notes["norm.weight"] == "merged without one: not there, or not like that"
    assert notes["embed_tokens.weight of two"] == f"2 rows past the base's {rows} left out"
    assert notes["head.weight of three"] == "left out: not in the base"
    assert notes["copy of three"] == "left out; it is layers.1.mlp.weight once more"
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(what in card for what in notes)


def test_rows_and_heads_of_one_model_can_be_had(tmp_path: Path) -> None:
    family = oddly.rich_family(tmp_path / "family")
    report, state = merged(family, tmp_path / "rows", tokenizer_from="two")
    rows = family.base["embed_tokens.weight"].shape[0]
    for name in ("embed_tokens.weight", "lm_head.weight"):
        assert same(state[name][rows:], family.tasks["two"][name][rows:])
    assert f"{'embed_tokens.weight'} of two" not in report.notes
    _, state = merged(family, tmp_path / "head", private_from="three", dtype="F32")
    assert same(state["head.weight"], family.tasks["three"]["head.weight"])
    assert state["norm.weight"].dtype == torch.float32


def test_integers_that_differ_come_from_the_first_model(tmp_path: Path) -> None:
    base, tasks = families.rich_states()
    tasks["two"]["ids"] = torch.arange(9) + 1
    tasks["three"]["ids"] = torch.arange(9) + 2
    family = Family(tmp_path, base, tasks)
    report, state = merged(family, tmp_path / "out")
    assert state["ids"].tolist() == tasks["three"]["ids"].tolist()
    assert report.notes["ids"] == "I64, taken from three; three, two differ from the base"


def test_bad_input_is_named_and_leaves_nothing(small: Family, tmp_path: Path) -> None:
    target = tmp_path / "out"
    broken = {**small.tasks["beta"], "scale": torch.tensor(float("nan"), dtype=torch.bfloat16)}
    families.save(tmp_path / "nan", broken)
    stranger = families.save(tmp_path / "stranger", families.random_state(99))
    with pytest.raises(NotFinite, match="nan: tensor 'scale' holds NaN"):
        merge(small.base_path, {"nan": tmp_path / "nan"}, target, MergeOptions("sum"))
    with pytest.raises(NotOneFamily, match=r"stranger is not a fine-tune.*cosine .* is -?0\.0"):
        merge(small.base_path, {"stranger": stranger}, target, MergeOptions("sum"))
    with pytest.raises(InputError, match="'delta', which is none of the models"):
        merge(small.base_path, small.paths, target, MergeOptions("sum", weights={"delta": 1}))
    with pytest.raises(InputError, match="no tensors of its own"):
        merge(small.base_path, small.paths, target, MergeOptions("sum", private_from="beta"))
    with pytest.raises(InputError, match="overflows F16"):
        merge(small.base_path, small.paths, target, MergeOptions("sum", alpha=1e9, dtype="F16"))
    with pytest.raises(InputError, match="max-memory of 1 MiB is too little"):
        merge(small.base_path, small.paths, target, MergeOptions("sum", max_memory=1 << 20))
    assert not target.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nan", "stranger"]
    merge(small.base_path, {"x": stranger}, target, MergeOptions("sum", unrelated=True))
    with pytest.raises(TargetExists):
        merge(small.base_path, small.paths, target, MergeOptions("sum"))
    merge(small.base_path, small.paths, target, MergeOptions("sum", overwrite=True))
    own = families.save(tmp_path / "own", small.tasks["alpha"])
    with pytest.raises(OutputError, match="not something that taskstore wrote"):
        merge(small.base_path, small.paths, own, MergeOptions("sum", overwrite=True))
    with pytest.raises(OutputError, match="is or holds .*out, which is merged"):
        models = {"out": target, "alpha": small.paths["alpha"]}
        merge(small.base_path, models, target, MergeOptions("sum", overwrite=True))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(OutputError, match="not something that taskstore wrote"):
        merge(small.base_path, small.paths, tmp_path / "mine", MergeOptions("sum", overwrite=True))


@pytest.mark.parametrize(
    "bad", [{"alpha": float("nan")}, {"weights": {"a": float("inf")}}, {"dtype": "I8"}, {"jobs": 0}]
)
def test_options_without_sense(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        MergeOptions("sum", **bad)  # type: ignore[arg-type]


def test_the_command(small: Family, tmp_path: Path) -> None:
    out, models = tmp_path / "out", [f"one={small.paths['alpha']}", small.paths["beta"]]
    done = run("merge", small.base_path, *models, "--method", "task_arithmetic", "--alpha", 0.5,
               "--weight", "one=-1", "--dtype", "f32", "-o", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "2 fine-tunes of base merged by task_arithmetic, alpha 0.5; 6 tensors" in done.output
    found = vectors(small)
    state = load_file(out / "model.safetensors")
    for name, base in small.base.items():
        tau = found["beta"][name] - found["alpha"][name]
        assert torch.allclose(state[name], base.float() + 0.5 * tau, atol=1e-7)
    done = run("merge", small.base_path, *models, "--method", "ties", "--json", "--overwrite",
               "--option", "density=0.5", "-o", out)  # fmt: skip
    assert json.loads(done.output)["options"] == {"density": 0.5, "mean": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "tie"], "no merge method 'tie'; did you mean 'ties'"),
        (["--method", "ties", "--option", "densty=1"], "did you mean 'density'?"),
        (["--method", "ties", "--option", "density=2"], "is not a number from"),
        (["--method", "sum", "--option", "density"], "is not K=V"),
        (["--method", "sum+ties"], "names two that merge"),
        (["--method", "sum", "--alpha", "high"], "is not a number"),
        (["--method", "sum", "--tokenizer-from", "zeta"], "--tokenizer-from is given for 'zeta'"),
    ],
)
def test_errors_of_the_command(
    small: Family, tmp_path: Path, words: list[str], message: str
) -> None:
    done = run("merge", small.base_path, *small.paths.values(), *words, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_methods_are_listed() -> None:
    assert "methods" in main.commands
    done = run("methods")
    assert "ties: TIES" in done.output
    assert "--option mean=1" in done.output
    found = json.loads(run("methods", "ties", "--json").output)["methods"]
    assert list(found) == ["ties"]
    assert run("methods", "tis").exit_code == 2


def test_weights_and_alpha_where_the_method_has_its_own_idea(small: Family, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'model_stock' takes no weights"):
        MergeOptions("model_stock", weights={"alpha": 2})
    own = MergeOptions("gradient", alpha=0.5)
    assert own.made().options["alpha"] == 0.5
    assert own.scale == 1
    with pytest.raises(InputError, match="option alpha=-1"):
        MergeOptions("gradient", alpha=-1)
    with pytest.raises(InputError, match="takes only one of the models"):
        merge(small.base_path, small.paths, tmp_path / "out", MergeOptions("linear"))
    with pytest.raises(InputError, match="takes at least 2 of the models"):
        some = {"alpha": small.paths["alpha"]}
        merge(small.base_path, some, tmp_path / "out", MergeOptions("warm"))


@pytest.mark.parametrize("over", ["sum", "ties", "lsq"])
def test_consensus_equals_the_masks_of_a_store(small: Family, tmp_path: Path, over: str) -> None:
    """From the models, and from a store that was packed the same way."""
    lam = 0.4
    options = families.options(method=over, lam=lam)
    taskstore.pack(small.base_path, small.paths, tmp_path / "store", options)
    store = taskstore.open(tmp_path / "store")
    method = {"method": f"consensus+{over}", "method_options": {"k": 2, "lam": lam}}
    _, models = merged(small, tmp_path / "models", **method)  # type: ignore[arg-type]
    report = merge_store(store, tmp_path / "out", MergeOptions("consensus"))
    assert "its own multi-task model" in report.notes["store"]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(same(models[name], found[name]) for name in models)
    tasks = {task: store.state_dict(task) for task in store.tasks}
    summed = {"method_options": {"mean": 0}} if over == "ties" else {}
    _, whole = merged(small, tmp_path / "whole", over, **summed)
    for name, base in small.base.items():
        votes = sum((tasks[t][name] != base).int() for t in tasks)
        wanted = torch.where(torch.as_tensor(votes) >= 2, whole[name], base)
        assert same(found[name], wanted), name


def test_a_store_s_tasks_are_merged_as_they_are_rebuilt(small: Family, tmp_path: Path) -> None:
    options = families.options(tiers="exact")
    taskstore.pack(small.base_path, small.paths, tmp_path / "store", options)
    store = taskstore.open(tmp_path / "store")
    some = {task: small.paths[task] for task in ("alpha", "gamma")}
    report = merge_store(store, tmp_path / "a", MergeOptions("ties"), list(some))
    assert report.notes["store"] == "merged from the models that it rebuilds (tier exact)"
    merge(small.base_path, some, tmp_path / "b", MergeOptions("ties"))
    a, b = (load_file(tmp_path / x / "model.safetensors") for x in "ab")
    assert all(same(a[name], b[name]) for name in b)
    assert (tmp_path / "a" / "tokenizer.json").exists()
    with pytest.raises(UnknownTask):
        merge_store(store, tmp_path / "c", MergeOptions("ties"), ["zeta"])
    file = next((tmp_path / "store" / "tasks" / "alpha").glob("*.safetensors"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ChecksumMismatch):
        merge_store(store, tmp_path / "c", MergeOptions("ties"))
    assert not (tmp_path / "c").exists()


def test_adapters_are_merged_as_what_they_stand_for(tmp_path: Path) -> None:
    base = families.random_state(0)
    family = Family(tmp_path, base, {"one": families.tuned(base, 1)})
    name, adapter = "layers.1.mlp.weight", tmp_path / "adapter"
    adapter.mkdir()
    a, b = torch.randn(4, 64) * 0.1, torch.randn(16, 4) * 0.1
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    factors = {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    save_file(factors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 8, "r": 4, "target_modules": ["mlp"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    models = {**family.paths, "lora": adapter}
    merge(family.base_path, models, tmp_path / "out", MergeOptions("average"))
    found = load_file(tmp_path / "out" / "model.safetensors")
    tuned = (base[name].double() + 2 * b.double() @ a.double()).to(torch.bfloat16)
    mean = (tuned.float() + family.tasks["one"][name].float()) / 2
    torch.testing.assert_close(found[name].float(), mean, rtol=1e-2, atol=1e-4)


def test_a_head_comes_with_its_config(tmp_path: Path) -> None:
    base = families.random_state(0)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two"))}
    family = Family(tmp_path, base, tasks)
    state = {**tasks["two"], "classifier.weight": torch.ones(5, 16)}
    config = {"model_type": "test", "num_labels": 5, "vocab_size": 44, "dtype": "bfloat16"}
    families.save(tmp_path / "two", state, config=config)
    base_config = {"model_type": "test", "num_labels": 2, "vocab_size": 40}
    (tmp_path / "base" / "config.json").write_text(json.dumps(base_config))
    merged(family, tmp_path / "out", private_from="two", dtype="F16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == {**config, "vocab_size": 40, "dtype": "float16"}
    merged(family, tmp_path / "own", private_from="two", tokenizer_from="two")
    assert json.loads((tmp_path / "own" / "config.json").read_text()) == config
