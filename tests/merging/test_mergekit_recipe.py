"""mergekit's YAML: what it means, by documented formulas in plain torch, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from taskstore_cli.main import main
from torch import Tensor

from taskstore.errors import InputError
from taskstore.merging import merge
from taskstore.merging.mergekit.aligned import Aligned
from taskstore.merging.mergekit.fields import MAX_BYTES, load
from taskstore.merging.mergekit.methods import translate, unused
from taskstore.merging.mergekit.recipe import Recipe, read
from taskstore.merging.mergekit.settings import Call, RecipeModel, Settings
from taskstore.merging.mergekit.vocabulary import Wanted
from tests.support.families import Family, State, family, save

Formula = Callable[[Tensor, list[Tensor]], Tensor]


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """float32, so that no two magnitudes are equal."""
    return family(tmp_path_factory.mktemp("floats"), dtype=torch.float32)


def write(folder: Path, text: str) -> Path:
    path = folder / "merge.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def made(models: Family, target: Path, text: str) -> State:
    """What the recipe gives; its paths are relative to the family's folder."""
    recipe = read(write(models.base_path.parent, text))
    merge(recipe.base, recipe.models, target, recipe.options)
    return load_file(target / "model.safetensors")


def check(found: State, models: Family, formula: Formula) -> None:
    for name, weight in models.base.items():
        expected = formula(weight, [task[name] for task in models.tasks.values()])
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-7)


THREE = """
models:
  - {model: alpha, parameters: {weight: 1.0}}
  - {model: beta, parameters: {weight: 0.5}}
  - {model: gamma, parameters: {weight: 0.3}}
"""


def test_linear_averages_the_models_without_a_base(floats: Family, tmp_path: Path) -> None:
    found = made(floats, tmp_path / "out", THREE + "merge_method: linear")
    check(found, floats, lambda _, theta: (theta[0] + 0.5 * theta[1] + 0.3 * theta[2]) / 1.8)


def test_linear_counts_a_base_that_is_listed(floats: Family, tmp_path: Path) -> None:
    text = THREE + "  - {model: base, parameters: {weight: 2}}\n"
    found = made(floats, tmp_path / "out", text + "merge_method: linear\nbase_model: base")
    check(
        found,
        floats,
        lambda base, theta: (2 * base + theta[0] + 0.5 * theta[1] + 0.3 * theta[2]) / 3.8,
    )


def test_linear_that_adds_up_to_one_needs_no_normalizing(floats: Family, tmp_path: Path) -> None:
    text = """
merge_method: linear
models:
  - {model: alpha, parameters: {weight: -0.25}}
  - {model: beta, parameters: {weight: 1.25}}
parameters: {normalize: false}
"""
    found = made(floats, tmp_path / "out", text)
    check(found, floats, lambda _, theta: 1.25 * theta[1] - 0.25 * theta[0])


@pytest.mark.parametrize("normalize", [False, True])
def test_task_arithmetic(floats: Family, tmp_path: Path, normalize: bool) -> None:
    text = THREE.replace("0.3", "-0.3") + "merge_method: task_arithmetic\nbase_model: base\n"
    text += f"parameters: {{lambda: 0.7, normalize: {str(normalize).lower()}}}"
    divisor = 1.2 if normalize else 1.0

    def formula(base: Tensor, theta: list[Tensor]) -> Tensor:
        a, b, c = (t - base for t in theta)
        return base + 0.7 * (a + 0.5 * b - 0.3 * c) / divisor

    check(made(floats, tmp_path / "out", text), floats, formula)


@pytest.mark.parametrize(
    ("normalize", "weights"), [(None, (1.0, 0.5, 0.3)), (False, (1.0, 0.5, -0.3))]
)
def test_ties(
    floats: Family, tmp_path: Path, normalize: bool | None, weights: tuple[float, ...]
) -> None:
    """Each tensor by itself keeps int(n density) values; the sum decides the sign."""
    text = THREE.replace("0.3", str(weights[2])) + "merge_method: ties\nbase_model: base\n"
    shared = {"lambda": 0.8, "density": 0.4, **({} if normalize is None else {"normalize": False})}
    text += f"parameters: {json.dumps(shared)}"

    def formula(base: Tensor, theta: list[Tensor]) -> Tensor:
        kept = []
        for t in theta:
            tau = (t - base).reshape(-1)
            chosen = torch.topk(tau.abs(), max(1, int(tau.numel() * 0.4))).indices
            kept.append(torch.zeros_like(tau).index_put((chosen,), tau[chosen]))
        scaled = torch.stack([w * tau for w, tau in zip(weights, kept, strict=True)])
        up = scaled.sum(0) >= 0
        agree = torch.where(up, scaled > 0, scaled < 0)
        merged = (scaled * agree).sum(0)
        if normalize is None:
            total = (torch.tensor(weights)[:, None] * agree).sum(0)
            merged = merged / torch.where(total == 0, 1.0, total)
        return base + 0.8 * merged.reshape(base.shape)

    check(made(floats, tmp_path / "out", text), floats, formula)


def recipe(models: Family, text: str) -> Recipe:
    return read(write(models.base_path.parent, text))


def test_what_a_recipe_says(floats: Family) -> None:
    """Numbers as YAML 1.1 sees them; a model's own parameter goes before the recipe's."""
    found = recipe(
        floats,
        """
merge_method: ties
base_model: {model: {path: base}}
models:
  - model: base
  - model: alpha
    parameters: {weight: 1e-3}
  - model: {model: beta}
    parameters:
parameters: {weight: 2, density: 0.5, normalize: 0}
dtype: torch.float32
out_dtype: bfloat16
tokenizer_source: beta
chat_template:
""",
    )
    root = floats.base_path.parent
    assert found.base == str(root / "base")
    assert dict(found.models) == {"alpha": str(root / "alpha"), "beta": str(root / "beta")}
    options = found.options
    assert (options.method, options.alpha, options.dtype) == ("ties", 1.0, "BF16")
    assert options.method_options == {"density": 0.5, "per_tensor": 1.0, "mean": 0.0}
    assert options.weights == {"alpha": 0.001, "beta": 2.0}
    assert found.view == Aligned(Wanted("beta", ["alpha", "beta"]))
    assert found.notes == {}


@pytest.mark.parametrize(
    ("lines", "taken"),
    [
        ("tokenizer_source: base", "base"),
        ("tokenizer: {source: alpha}", "alpha"),
        ("tokenizer: {source: base, tokens: null}", "base"),
        ("tokenizer: {}", "union"),
        ("tokenizer_source: {model: gamma}", "gamma"),
    ],
)
def test_the_tokenizer(floats: Family, lines: str, taken: str) -> None:
    text = f"merge_method: task_arithmetic\nbase_model: base\n{THREE}{lines}"
    assert recipe(floats, text).view == Aligned(Wanted(taken, ["alpha", "beta", "gamma"]))


def test_the_first_models_tokenizer_where_there_is_no_base(floats: Family) -> None:
    found = recipe(floats, f"merge_method: linear\n{THREE}tokenizer_source: alpha")
    assert found.base.endswith("alpha")
    assert found.view == Aligned(Wanted("base", ["beta", "gamma"], has_base=False))


def test_models_of_one_name_are_told_apart(tmp_path: Path, floats: Family) -> None:
    for name in ("one/final", "two/final"):
        save(tmp_path / name, floats.tasks["alpha"])
    text = """
merge_method: task_arithmetic
base_model: hub/id
models: [{model: one/final}, {model: two/final}, {model: org/third}]
parameters: {weight: 1}
"""
    found = read(write(tmp_path, text))
    assert list(found.models) == ["one-final", "two-final", "third"]
    assert (found.base, found.models["third"]) == ("hub/id", "org/third")


def test_paths_are_those_of_the_working_folder_first(
    floats: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "alpha", floats.tasks["alpha"])
    monkeypatch.chdir(tmp_path)
    found = recipe(floats, f"merge_method: linear\n{THREE}")
    assert Path(found.base).resolve() == (tmp_path / "alpha").resolve()
    assert found.models["beta"] == str(floats.base_path.parent / "beta")


def test_the_one_module_of_a_model(floats: Family) -> None:
    """Its own parameters go before the recipe's."""
    head = "merge_method: ties\nbase_model: base\n"
    models = "{models: [{model: alpha}, {model: beta}], parameters: {lambda: 2}}"
    found = recipe(
        floats,
        f"{head}modules: {{default: {models}}}\nparameters: {{weight: 3, lambda: 1}}\n",
    )
    assert found.options.weights == {"alpha": 3.0, "beta": 3.0}
    assert found.options.alpha == 2.0


def settings(folder: Path, method: str, shared: str, *models: str) -> Settings:
    """Of parameters in YAML."""

    def parameters(text: str) -> Mapping[str, Any]:
        node = load(write(folder, f"parameters: {text}"))
        inner = node.members(("parameters",))["parameters"]
        return inner.members(inner.value)

    name = load(write(folder, f"merge_method: {method}")).members(("merge_method",))
    entries = [RecipeModel(name["merge_method"], parameters(text), False) for text in models]
    return Settings(name["merge_method"], parameters(shared), entries)


def call(found: Call) -> tuple[str, list[float], Mapping[str, float], float]:
    return found.method, list(found.weights or ()), found.options, found.alpha


def test_dare_keeps_a_density_and_divides_by_it(tmp_path: Path) -> None:
    models = ("{weight: 1, density: 0.53}", "{weight: -3, density: 0.53}")
    found = translate(settings(tmp_path, "dare_linear", "{}", *models))
    assert call(found) == ("dare", [1.0, -3.0], {"p": 0.47}, 1.0)
    assert list(found.notes.values()) == [
        "the random choice is another than mergekit's, and what is kept is divided by the density "
        "where mergekit scales each tensor to the L1 norm that it had"
    ]
    found = translate(settings(tmp_path, "dare_linear", "{normalize: true, lambda: 2}", *models))
    assert call(found) == ("dare", [-0.5, 1.5], {"p": 0.47}, 2.0)
    found = translate(settings(tmp_path, "dare_ties", "{lambda: 2, rescale: false}", *models))
    options = {"density": 1.0, "mean": 0.0, "p": 0.47}
    assert call(found) == ("dare+ties", [1.0, -3.0], options, 1.06)


def test_model_stock_has_no_numbers(tmp_path: Path) -> None:
    given = settings(tmp_path, "model_stock", "{filter_wise: false}", "{weight: 1}", "{}")
    assert call(translate(given)) == ("model_stock", [], {}, 1.0)
    assert list(unused(given).values()) == ["ignored: model_stock has no weight"]


@pytest.mark.parametrize(
    ("method", "shared", "wanted"),
    [
        ("model_stock", "{filter_wise: true}", ("model_stock", {"by_row": 1.0})),
        ("ram", "{epsilon: 0.1}", ("ram", {"epsilon": 0.1})),
        (
            "ramplus_tl",
            "{alpha: 2}",
            ("ram", {"epsilon": 1e-5, "r": 0.1, "bound": 2.0, "per_tensor": 1.0}),
        ),
        (
            "ties",
            "{rescale: true, density: 0.5}",
            ("ties", {"per_tensor": 1.0, "mean": 1.0, "rescale": 1.0, "density": 0.5}),
        ),
        (
            "breadcrumbs",
            "{rescale: true}",
            ("breadcrumbs", {"restore": 1.0, "keep": 1.0, "gamma": 0.01}),
        ),
        (
            "della_linear",
            "{rescale: false}",
            ("della", {"divide": 0.0, "keep": 1.0, "epsilon": 0.15}),
        ),
    ],
)
def test_parameters_of_the_other_methods(
    tmp_path: Path, method: str, shared: str, wanted: tuple[str, Mapping[str, float]]
) -> None:
    found = translate(settings(tmp_path, method, shared, "{weight: 1}", "{weight: 2}"))
    assert (found.method, found.options) == wanted


@pytest.mark.parametrize(
    ("method", "shared", "problem"),
    [
        ("dare_ties", "{normalize: true}", "has a weight below 0, which mergekit's normalized"),
        ("dare_linear", "{density: 0}", "parameters.density is 0; a density is above 0 and at"),
    ],
)
def test_what_the_other_methods_refuse(
    tmp_path: Path, method: str, shared: str, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        translate(settings(tmp_path, method, shared, "{weight: -1}", "{weight: 2}"))


def test_weights_that_cancel_are_not_divided_by(tmp_path: Path) -> None:
    given = settings(
        tmp_path, "task_arithmetic", "{normalize: true}", "{weight: 1}", "{weight: -1}"
    )
    assert call(translate(given)) == ("sum", [1.0, -1.0], {}, 1.0)


def test_what_has_no_effect_is_noted(floats: Family) -> None:
    found = recipe(
        floats,
        f"""
merge_method: task_arithmetic
base_model: base
{THREE}  - {{model: base, parameters: {{weight: 4}}}}
parameters: {{int8_mask: true, density: 0.5, rescale: false}}
""",
    )
    assert found.notes == {
        "parameters.int8_mask": "ignored: it changes only how much memory mergekit takes",
        "parameters.density": "ignored: task_arithmetic has no density",
        "parameters.rescale": "ignored: task_arithmetic has no rescale",
        "models[3].parameters.weight": "ignored: it is the base's, which has no task vector",
    }


TA = "merge_method: task_arithmetic\nbase_model: base\n"
TIES = "merge_method: ties\nbase_model: base\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", "holds ['a'], not a mapping with a merge_method"),
        ("models: [", "is not YAML: line 1: expected the node content, but found '<stream end>'"),
        ("a: 1\na: 2", "is not YAML: line 2: 'a' stands twice"),
        ("a: &a {b: 1}\nc: {<<: *a}", "is not YAML: line 2: merge keys (<<) are not read"),
        ("a: !!python/object:os.system x", "is not YAML: line 1: could not determine a "
         "constructor for the tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: 1\n---\nb: 1", "is not YAML: line 2: but found another document"),
        ("a: !!int x", "is not YAML: it cannot be read"),
        ("2001-12-24: ties", "the recipe has an unknown key '2001-12-24'"),
        ("a: " + 2000 * "[", "is not YAML: it cannot be read"),
        ("a: " + MAX_BYTES * "x", "is larger than 256 KB"),
        ("merge_metod: ties", "the recipe has an unknown key 'merge_metod'; did you mean "
         "'merge_method'?"),
        ("7: ties", "the recipe has an unknown key 7; it may have merge_method, base_model"),
        ("base_model: base", "the recipe has no merge_method"),
        ("merge_method: linear", "the recipe has no models"),
        ("merge_method: linear\nmodels: []", "models names no model"),
        ("merge_method: linear\nmodels: alpha", "models is 'alpha', not a list"),
        ("merge_method: linear\nmodels: [alpha]", "models[0] is 'alpha', not a mapping"),
        ("merge_method: linear\nmodels: [{parameters: {}}]", "models[0] names no model"),
        ("merge_method: linear\nmodels: [{model: 3}]", "models[0].model is 3, not a text"),
        ("merge_method: linear\nmodels: [{model: {}}]", "models[0].model names no model"),
        ("merge_method: linear\nmodels: [{model: &a {model: *a}}]", "models[0].model.model.model "
         "is {'model': {...}}, not a text"),
        ("merge_method: linear\nmodels: [{model: {model: alpha, lora: x}}]",
         "models[0].model.lora is not supported; name a folder"),
        ("merge_method: linear\nmodels: [{model: alpha+beta}]",
         "models[0].model is 'alpha+beta', an adapter on a model; name the adapter's folder alone, "
         "it is then one of base_model"),
        ("merge_method: linear\nmodels: [{model: alpha, layer_range: [0, 4]}]",
         "models[0] has an unknown key 'layer_range'; it may have model, parameters"),
        ("merge_method: linear\nmodels: [{model: alpha, parameters: {weight: 1}}]",
         "models names no model beside the base"),
        ("merge_method: linear\nmodels: [{model: alpha}, {model: ./alpha}]",
         "models[1] is the same model as models[0]; give it one weight"),
        (THREE + "merge_method: linear\nbase_model: base", "base_model is none of the models; "
         "linear averages it too, so list it with a weight, or leave it out"),
        (THREE + "merge_method: linear\nparameters: {normalize: false}",
         "parameters.normalize is false and the weights add up to 1.8, so the result is no "
         "average; let it be true, or give weights that add up to 1"),
        ("merge_method: linear\nmodels: [{model: alpha, parameters: {weight: 1}}, {model: beta, "
         "parameters: {weight: -1}}]", "merge_method linear needs weights whose sum is not 0"),
        (THREE + "merge_method: ties", "merge_method ties needs a base_model"),
        (THREE + "merge_method: [ties]", "merge_method is ['ties'], not a text"),
        (THREE + "merge_method: slurp", "merge_method is 'slurp', which mergekit does not have; "
         "did you mean 'slerp'?"),
        (THREE + "merge_method: xyz", "merge_method is 'xyz', which mergekit does not have; read "
         "are linear, task_arithmetic, ties, dare_linear, dare_ties, breadcrumbs, "),
        (THREE + "merge_method: breadcrumbs", "merge_method breadcrumbs needs a base_model"),
        (THREE + "merge_method: passthrough", "models has 3 models, and passthrough takes one"),
        (THREE + "merge_method: slerp\nbase_model: base\nparameters: {t: 0.5}", "merge_method "
         "slerp takes one model beside the base, and 3 are listed"),
        (THREE + "merge_method: nuslerp", "nuslerp takes two models, and 3 are listed"),
        (THREE + "merge_method: karcher\nbase_model: base", "karcher has no base_model; leave it"),
        ("merge_method: nearswap\nbase_model: base\nmodels: [{model: alpha}]",
         "merge_method nearswap needs parameters.t"),
        (TA + "slices: []\n", "slices names no slice"),
        (TA + THREE + "slices: []\n", "slices stands beside models; give one of them"),
        (TA + "slices: [{sources: [{model: alpha}]}]", "slices[0].sources[0] has no layer_range"),
        (TA + "slices: [{sources: [{model: alpha, layer_range: [2, 1]}]}]",
         "slices[0].sources[0].layer_range is no [first, end] of two whole numbers"),
        (TA + "slices: [{sources: [{model: alpha, layer_range: [0, 1]}]}]",
         "slices[0].sources has not the base_model among them, which task_arithmetic needs there"),
        (TA + "slices: [{sources: [{model: base, layer_range: [0, 2]}, "
         "{model: alpha, layer_range: [0, 1]}]}]",
         "slices[0].sources takes ranges of unequal length from its models"),
        (TA + "modules: {}\n", "modules is no mapping of one member, default; parts of models"),
        (TA + "modules: {default: {}, vision: {}}\n", "modules is no mapping of one member"),
        (TA + "modules: {default:}\n", "the recipe has no models, and no slices"),
        (TA + THREE + "modules: {default: {}}\n", "models stands beside modules; give one of them"),
        (TA + "chat_template: auto\n", "chat_template is not supported; the merged model has"),
        (TA + "models: [{model: alpha}]", "models[0] has no parameters.weight, and "
         "task_arithmetic needs it"),
        (TA + "models: [{model: alpha, parameters: {wieght: 1}}]",
         "models[0].parameters has an unknown key 'wieght'; did you mean 'weight'?"),
        (TA + "models: [{model: alpha, parameters: {weight: [{pattern: mlp, value: 1}]}}]",
         "models[0].parameters.weight[0] has an unknown key 'pattern'"),
        (TA + "models: [{model: alpha, parameters: {weight: &w {value: *w}}}]",
         "weight.value has filters inside a filter; give a number or a gradient"),
        (TA + "models: [{model: alpha, parameters: {weight: {filter: mlp}}}]",
         "models[0].parameters.weight has no value"),
        (TA + "models: [{model: alpha, parameters: {weight: [{filter: mlp, value: 1}]}}]",
         "models[0] has no parameters.weight, and task_arithmetic needs it"),
        (TA + "models: [{model: alpha, parameters: {weight: much}}]",
         "models[0].parameters.weight is 'much', not a finite number"),
        (TA + "models: [{model: alpha, parameters: {weight: true}}]",
         "models[0].parameters.weight is True, not a finite number"),
        (TA + "models: [{model: alpha, parameters: {weight: .inf}}]",
         "models[0].parameters.weight is inf, not a finite number"),
        (TA + "models: [{model: alpha, parameters: {weight: 1" + 400 * "0" + "}}]",
         "not a finite number"),
        (TA + "models: [{model: alpha, parameters: {lambda: 1}}]", "models[0].parameters.lambda is "
         "no parameter of one model; it belongs into the recipe's own"),
        (TA + THREE + "parameters: {normalize: maybe}", "parameters.normalize is 'maybe', not true "
         "or false"),
        (TA + THREE + "parameters: {normalize: [true, false]}", "parameters.normalize[0] is "
         "True, not a finite number"),
        (TA + THREE + "parameters: {int8_mask: 3}", "parameters.int8_mask is 3, not true or false"),
        (TA + THREE + "parameters: {normalise: true}", "parameters has an unknown key 'normalise'; "
         "did you mean 'normalize'?"),
        (TA + THREE + "dtype: int64", "dtype is 'int64'; it can be bfloat16, float16, float32"),
        (TA + THREE + "tokenizer: {source: base, tokens: {a: {}}}", "tokenizer.tokens.'a' has "
         "no source, which is a model, {kind: zero}, or {kind: model_token, ...}"),
        (TA + THREE + "tokenizer_source: other", "tokenizer_source is 'other', which is none of "
         "the models"),
        (TA + THREE + "tokenizer_source: base\ntokenizer: {source: base}", "tokenizer_source "
         "stands beside tokenizer; give one of them"),
        (TIES + THREE + "parameters: {density: 1.5}", "parameters.density is 1.5; a density is "
         "above 0 and at most 1"),
        (TIES + THREE.replace("0.3", "-0.3"), "models[2] has a weight below 0, which mergekit's "
         "normalized mean subtracts from its divisor and ours does not; set parameters.normalize "
         "to false"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_with_its_place(floats: Family, text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe(floats, text)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(str(floats.base_path.parent / "merge.yaml"))
    assert len(str(caught.value)) < 500


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read: No such file or directory"):
        read(tmp_path / "none.yaml")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["merge", *map(str, words)])


def test_the_command_reads_a_recipe(small: Family, tmp_path: Path) -> None:
    """Its options for the output stand beside it; notes are said, and written into the card."""
    root = small.base_path.parent
    text = THREE.replace("model: ", f"model: {root}/") + "merge_method: linear\ndtype: float16\n"
    path = write(tmp_path, text + "parameters: {int8_mask: true}")
    done = run("--config", path, "-o", tmp_path / "out", "--jobs", 1)
    assert done.exit_code == 0, done.output
    assert "2 fine-tunes of alpha merged by sum" in done.stdout
    assert "models[0]: is the base here; its share of the average is 0.555556" in done.stderr
    assert "parameters.int8_mask: ignored" in done.stderr
    assert "parameters.int8_mask: ignored" in (tmp_path / "out/README.md").read_text()
    found = load_file(tmp_path / "out/model.safetensors")
    assert {weight.dtype for weight in found.values()} == {torch.float16}
    again = ("--config", path, "-o", tmp_path / "out", "--dtype", "f32", "--json")
    assert "exists already" in run(*again).stderr
    done = run(*again, "--overwrite")
    assert json.loads(done.stdout)["notes"]["models[0]"].startswith("is the base here")
    found = load_file(tmp_path / "out/model.safetensors")
    assert {weight.dtype for weight in found.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("BASE", "MODEL"), "BASE"),
        (("--method", "ties", "--alpha", "2"), "--method, --alpha"),
        (("--option", "density=1", "--weight", "a=1"), "--option, --weight"),
        (("--tokenizer-from", "a", "--base-from", "b"), "--tokenizer-from, --base-from"),
    ],
)
def test_a_recipe_stands_alone(tmp_path: Path, words: tuple[str, ...], names: str) -> None:
    done = run("--config", tmp_path / "none.yaml", "-o", tmp_path / "out", *words)
    assert done.exit_code == 2
    assert f"--config says what is merged; leave out {names}; see " in done.stderr


@pytest.mark.parametrize("words", [(), ("base", "model"), ("--method", "ties")])
def test_without_a_recipe_all_is_needed(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run("-o", tmp_path / "out", *words)
    assert done.exit_code == 2
    assert "give BASE, MODELs and --method, or --config" in done.stderr
