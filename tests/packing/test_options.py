import pytest
from taskstore_cli.arguments.sizes import parse_bytes

from taskstore.errors import InputError
from taskstore.packing.options import PackOptions


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GiB", 2 << 30), ("500MB", 500_000_000), ("1e9", 10**9), ("64 kib", 65536), ("1.5k", 1500)],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "2 elephants", "-1", "1.2.3", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    "bad",
    [{"lam": -1.0}, {"lam": float("nan")}, {"lambdas": {"a": float("inf")}}, {"jobs": 0},
     {"method": "ties", "merge_options": {"density": 0.0}},
     {"method": "ties", "merge_options": {"density": 1.1}},
     {"method": "ties", "merge_options": {"mean": 0.5}}, {"merge_options": {"density": 0.2}}],
)  # fmt: skip
def test_values_without_sense(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        PackOptions(**bad)  # type: ignore[arg-type]


def test_lambda_of_a_task() -> None:
    options = PackOptions(lam=0.4, lambdas={"a": 0.3})
    assert (options.lam_of("a"), options.lam_of("b")) == (0.3, 0.4)
    with pytest.raises(InputError, match="'a', which is no task"):
        options.check_tasks(["b"])


def test_memory_bounds_the_blocks_in_flight() -> None:
    assert PackOptions(jobs=2).executor(8, 2).in_flight == 5
    few = PackOptions(jobs=8, max_memory=256 << 20).executor(8, 2).in_flight
    assert few is not None and 1 <= few < 17
    with pytest.raises(InputError, match="max-memory of 65 MiB is too little for 200 tasks"):
        PackOptions(max_memory=65 << 20).executor(200, 4)
