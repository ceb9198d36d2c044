"""Names of merge methods and their options: what is found, and what is refused with a way out."""

from __future__ import annotations

import pytest

from taskstore import merging
from taskstore.errors import InputError, UnknownMethod
from taskstore.merging.methods import MERGES, check, info_of, make, options_of, split
from taskstore.merging.methods.registry import ALIASES


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("sum", "sum"),
        (" Task-Arithmetic ", "sum"),
        ("dare", "dare sum"),
        ("consensus", "consensus sum"),
        ("dare+ties", "dare ties"),
        ("DARE + task_arithmetic", "dare sum"),
        ("dare_ties", "dare ties"),
        ("dare-linear", "dare sum"),
        ("consensus_ties", "consensus ties"),
        ("ties+consensus", "consensus ties"),
        ("consensus+dare_ties", "consensus dare ties"),
        ("soup", "average"),
        ("uniform_soup", "average"),
        ("model_soup", "average"),
        ("gradient_matching", "gradient"),
        ("tsv_merge", "tsv"),
        ("lines+ties", "lines ties"),
        ("trust_region+wudi+lines", "lines trust_region wudi"),
        ("tvq+trust_region+tsv+svc+lines", "lines svc tvq trust_region tsv"),
        ("lines+svc+ties", "lines svc ties"),
        ("tatr", "trust_region sum"),
    ],
)
def test_split(name: str, names: str) -> None:
    """From the outermost to the method."""
    assert " ".join(split(name).names) == names


def test_what_is_before_works_on_vectors_and_what_is_after_on_the_merged_one() -> None:
    made = split("lines+tvq+trust_region+wudi+svc")
    assert made.before == ("tvq", "trust_region") and made.method == "wudi"
    assert made.after == ("svc", "lines")


def test_merging_has_the_registry() -> None:
    assert merging.MERGES is MERGES


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_no_method_and_leads_to_one(alias: str) -> None:
    assert alias not in MERGES and set(split(alias).names) <= set(MERGES)
    make(alias)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tise", "did you mean 'ties'"),
        ("fischer", "did you mean 'fisher'"),
        ("dare+tise", "no merge method 'tise'; did you mean 'ties'"),
        ("xqzw", "there are average, swa"),
        ("", "svc, auto, fw, greedy_soup; "),
        ("dare+", "no merge method ''; there are"),
        ("+ties", "no merge method ''; there are"),
        ("trust_regoin+wudi", "no merge method 'trust_regoin'; did you mean 'trust_region'"),
    ],
)
def test_unknown_methods(name: str, hint: str) -> None:
    with pytest.raises(UnknownMethod) as caught:
        split(name)
    assert hint in str(caught.value) and "taskstore methods" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sum+ties", "names two that merge, 'sum' and 'ties'; .*before it dare.*after it"),
        ("dare+sum+ties", "two that merge, 'sum' and 'ties'"),
        ("dare+dare", "'dare' twice"),
        ("dare+dare_ties", "'dare' twice"),
        ("ties+dare", "'dare' changes the task vectors before 'ties' .*write dare[+]ties"),
        ("lines+ties+trust_region", "write trust_region[+]ties"),
        ("lines+greedy_soup", "'greedy_soup' tries models"),
        ("sum+svc+consensus", "'svc' merges whole matrices; 'consensus' cannot"),
        ("wudi+consensus", "'wudi' merges whole matrices; 'consensus' cannot"),
        ("trust_region+linear", "'linear' takes 1 model .* 'trust_region' at least 2"),
        ("consensus+lawa", "'consensus' and 'lawa' both have an option 'k'"),
        ("consensus+tsv", "'tsv' merges whole matrices; 'consensus' cannot work on it"),
        ("consensus+regmean", "'regmean' merges whole matrices"),
    ],
)
def test_pairs_that_make_no_sense(name: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        make(name)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("ties", {"densty": 0.1}, "'ties' has no option 'densty'; did you mean 'density'"),
        ("sum", {"x": 1}, "'sum' has no option 'x'; it has none"),
        ("dare+ties", {"q": 1}, "it has density, mean, per_tensor, rescale, p, seed"),
        ("dare", {"density": 0.5}, "'dare' has no option 'density'"),
        ("dare", {"p": 1}, "p=1 of 'dare' is not a number from 0 to 0.9999"),
        ("dare+ties", {"density": 2}, "density=2 of 'dare[+]ties' is not a number from"),
        ("dare", {"p": float("nan")}, "p=nan"),
        ("dare", {"seed": 0.5}, "seed=0.5 of 'dare' is not a whole number"),
        ("lawa", {"k": 0}, "k=0 of 'lawa' is not a whole number from 1"),
        ("consensus", {"k": 1.5}, "k=1.5 of 'consensus' is not a whole number from 0 to 1000"),
        ("fisher", {"floor": 0}, "floor=0"),
        ("regmean", {"a": 1.1}, "a=1.1"),
        ("lawa", {"k": float("inf")}, "k=inf"),
    ],
)
def test_options_that_are_refused(name: str, options: dict[str, float], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        make(name, options)


def test_options_reach_both_of_a_pair() -> None:
    method = make("dare+ties", {"density": 0.5, "p": 0.25})
    assert method.options == {"density": 0.5, "p": 0.25, "seed": 0}
    assert list(options_of("consensus+ties")) == [
        *("density", "mean", "per_tensor", "rescale", "k", "lam")
    ]


def test_merging_changes_what_is_usual_but_not_under_masks() -> None:
    assert make("ties", merging=True).options["mean"] == 1
    assert make("dare+ties", merging=True).options["mean"] == 1
    assert "mean" not in make("dare+ties").options
    assert "mean" not in make("consensus+ties", merging=True).options
    assert make("consensus+ties", {"mean": 1}, merging=True).options["mean"] == 1


def test_a_pair_needs_what_both_need() -> None:
    info = info_of("dare+fisher")
    assert (info.title, info.statistics, info.least) == ("DARE over Fisher", ("fisher",), 1)
    assert info_of("dare+model_stock").least == 2 and not info_of("dare+model_stock").weights
    assert info_of("dare+linear").most == 1
    assert info_of("dare+tsv").whole and not info_of("dare+sum").whole
    assert info_of("sum") is MERGES["sum"].INFO
    made = info_of("trust_region+wudi+lines")
    assert made.title == "LiNeS over Trust region over WUDI" and not made.packs and made.whole
    assert "Gram" in made.memory and info_of("lines+ties").memory == "blocks"


def test_what_masks_cannot_use_is_not_packed() -> None:
    for name in ("average", "linear", "consensus", "consensus_ties", "dare+average"):
        with pytest.raises(InputError, match=f"{name.split('+')[0][:4]}.*pack by sum, lsq, ties"):
            check(name, {}, packing=True)
    for name in ("sum", "lsq", "ties", "dare+ties", "emr", "tsv", "fisher"):
        check(name, {}, packing=True)
        check("average", {})
