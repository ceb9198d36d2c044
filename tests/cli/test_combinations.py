"""Options that do nothing beside the others are refused, with status 2 and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.main import main

from taskstore import PackOptions
from taskstore.errors import OptionError
from taskstore.packing import search_bits
from taskstore.statistics.options import MeasureOptions
from tests.support.families import Family


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


PACK = ["pack", "BASE", "alpha=ALPHA", "-o", "NEW"]
RETIER = ["retier", "STORE", "-o", "NEW"]
MERGE = ["merge", "BASE", "a=ALPHA", "--method=sum", "-o", "NEW"]
MASKS, EVAL = "--masks=alpha=x.npy", "--eval=true {model}"
TIERS: list[tuple[str, ...]] = [
    ("rest", "--lambda=0.4"),
    ("rest", "--lambda=alpha=0.4"),
    ("rest", "--method=sum"),
    ("rest", "--method=lsq"),  # the default, typed
    ("rest", "--level=archive"),
    ("rest", "--level=speed"),
    ("exact", "--lambda=0.4"),
    ("exact", "--method=ties"),
    ("rest,exact", "--lambda=0.4"),
    ("rest,exact", "--method=sum"),
]
PACK_ALONE = [
    ("rest", "--option=density=0.2"),
    ("exact", "--option=density=0.2"),
    ("exact", "--statistics=alpha=x"),
    ("rest", MASKS),
    ("exact", MASKS),
]
REFUSED: list[tuple[list[str], str]] = [
    *(([*PACK, "--tiers", *words], "does nothing with tiers") for words in (*TIERS, *PACK_ALONE)),
    *(([*RETIER, "--tiers", *words], "does nothing with tiers") for words in TIERS),
    ([*PACK, "--tiers=rest", "--statistics=alpha=x"], "do nothing for a rest of 2 bits"),
    ([*PACK, "--key=loss"], "--key does nothing without --eval"),
    ([*PACK, "--timeout=5"], "--timeout does nothing without --eval"),
    ([*PACK, "--journal=j"], "--journal does nothing without --eval"),
    ([*PACK, "--scratch=."], "--scratch does nothing without --eval"),
    ([*PACK, "--anyway"], "--anyway does nothing without --target"),
    ([*PACK, "--target=0.9"], "--target and --eval belong together"),
    ([*PACK, EVAL], "--target and --eval belong together"),
    ([*PACK, EVAL, "--target=0.9", "--max-error=0.1"], "without --max-error"),
    ([*PACK, EVAL, "--target=0.9", "--tiers=mask,exact"], "leave mask out"),
    ([*PACK, EVAL, "--target=0.9", "--rest-bits=2"], "--rest-bits does nothing with --target"),
    ([*PACK, "--max-error=0.1", "--rest-bits=2"], "chooses masks or the bits of a rest"),
    ([*PACK, "--max-error=0.1", "--lambda=0.4"], "lambda does nothing with tiers auto:0.1"),
    ([*PACK, "--max-error=0.1", "--method=sum"], "or ask for tiers mask"),
    ([*PACK, "--max-error=0.1", "--tiers=mask,exact"], "--max-error does nothing with --tiers"),
    ([*PACK, "--max-error=C"], "'C' is no error and no grade; give a number, A or B"),
    ([*PACK, "--tiers=auto:0"], "0.0 is not a number above 0"),
    ([*PACK, "--tiers=auto:nan"], "nan is not a number above 0"),
    ([*PACK, "--tiers=auto,mask"], "leave out mask, rest"),
    ([*PACK, "--tiers=auto", "--method=lsq"], "method does nothing with tiers auto"),
    ([*PACK, "--tiers=automatic"], "'automatic' is none of auto, mask, rest, exact"),
    (["retier", "STORE", "--tiers=exact", "--overwrite"], "--overwrite does nothing without"),
    ([*RETIER, "--tiers=rest", "--drop-exact"], "--drop-exact does nothing with --output"),
    (["retier", "STORE", "--tiers=exact", "--drop-exact"], "--drop-exact does nothing with"),
    ([*RETIER, "--tiers=exact", "--base-from=BASE"], "STORE carries its base"),
    (["add", "STORE", "n=ALPHA", "--base-from=BASE"], "STORE carries its base"),
    (["info", "STORE", "--jobs=1"], "--jobs does nothing without --overlap or --vectors"),
    (["info", "STORE", "--base-from=BASE"], "--base-from does nothing without --overlap"),
    (["info", "STORE", "--overlap", "--base-from=BASE"], "STORE carries its base"),
    (["verify", "STORE", "--base-from=BASE"], "--base-from does nothing without --deep"),
    (["verify", "STORE", "--deep", "--base-from=BASE"], "STORE carries its base"),
    (["report", "STORE", "-o", "NEW", "--base-from=BASE"], "STORE carries its base"),
    (["load", "STORE", "--base", "--tier=mask"], "--tier does nothing with --base"),
    (["load", "STORE", "alpha", "--repeat=2"], "--repeat does nothing without --time"),
    (["load", "STORE", "alpha", "--base-from=BASE"], "STORE carries its base"),
    (["unpack", "STORE", "-o", "NEW", "--base", "--tier=mask"], "--tier does nothing with --base"),
    (["unpack", "STORE", "-o", "NEW", "--base", "--exact"], "--exact does nothing with --base"),
    (["unpack", "STORE", "-o", "NEW", "alpha", "--exact", "--tier=mask"], "contradict"),
    (["unpack", "STORE", "-o", "NEW", "alpha", "--base-from=BASE"], "STORE carries its base"),
    (["eval", "STORE", EVAL, "--base-from=BASE"], "STORE carries its base"),
    (["serve", "STORE", "--print-command", "--json"], "--json does nothing with --print-command"),
    (["serve", "STORE", "--print-command", "--log-format=json"], "nothing with --print-command"),
    (["serve", "STORE", "--base-from=BASE"], "STORE carries its base"),
    *(
        ([*MERGE, word], "does nothing without")
        for word in ("--key=x", "--timeout=5", "--journal=j", "--scratch=.", "--minimise",
                     "--plot=p.html")
    ),
    ([*MERGE, "--base-from=BASE"], "is no store"),
    (["merge", "STORE", "--method=sum", "-o", "NEW", "--base-from=BASE"], "STORE carries its base"),
    ([*MERGE, "--statistics=a=x"], "no statistics"),
    *(
        (["measure", "BASE", "--data=x", "-o", "NEW", *words], "does nothing with")
        for words in (
            ("--statistics=gram", "--labels=data"),
            ("--statistics=hessian", "--labels=auto"),
            ("--statistics=gram", "--samples=2"),
            ("--statistics=fisher", "--batch=4"),
            ("--labels=exact", "--samples=2"),
            ("--labels=data", "--samples=3"),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_what_does_nothing_is_refused(
    words: list[str], said: str, packed: Path, small: Family, tmp_path: Path
) -> None:
    places = {"STORE": packed, "BASE": small.base_path, "ALPHA": small.paths["alpha"],
              "NEW": tmp_path / "new"}  # fmt: skip
    for name, place in places.items():
        words, said = [w.replace(name, str(place)) for w in words], said.replace(name, str(place))
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.stderr.split()), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tiers", ["rest", "exact", "rest,exact"])
@pytest.mark.parametrize(
    "given",
    [
        {"lam": 0.4},
        {"lambdas": {"alpha": 0.4}},
        {"method": "sum"},
        {"merge_options": {"density": 0.2}, "method": "ties"},
        {"statistics": {"alpha": Path("x")}, "method": "fisher"},
        {"masks": {"alpha": Path("x")}, "method": "sum"},
    ],
    ids=str,
)
def test_python_refuses_the_same(tiers: str, given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"does nothing with tiers {tiers}, only with mask"):
        PackOptions(tiers=tiers, **given)


def test_python_refuses_other_options_too() -> None:
    with pytest.raises(OptionError, match="level does nothing with tiers rest, only with mask and"):
        PackOptions(tiers="rest", level="archive")
    with pytest.raises(OptionError, match="residual does nothing where the bits are searched"):
        search_bits.with_rest_alone(PackOptions(residual=2))
    with pytest.raises(OptionError, match="samples does nothing with statistics gram"):
        MeasureOptions(statistics=("gram",), samples=2)


def test_what_does_something_is_taken() -> None:
    assert PackOptions(tiers="mask,exact", lam=0.4, method="sum", level="archive").level
    assert PackOptions(residual=1).tier_names == ("rest",)
    assert PackOptions(tiers="mask", residual=1).tier_names == ("mask", "rest")
    assert PackOptions(lam=0.3).tier_names == ("mask",)
    assert PackOptions(method="sum", residual=1).tier_names == ("mask", "rest")
    assert PackOptions().largest_error == PackOptions(residuals={"a": 1}).largest_error == 0.03
    assert PackOptions(tiers="auto:B,exact").largest_error == 0.055
    assert PackOptions(tiers="exact", level="archive").tier_names == ("exact",)
