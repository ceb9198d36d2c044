"""Each kind of location, for the tests that are the same for all."""

import pytest

from tests.locations.test_base import KINDS

ON_SERVER = pytest.param("s3", marks=pytest.mark.xdist_group("s3"))


@pytest.fixture(params=[*(name for name in KINDS if name != "s3"), ON_SERVER])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name in ("s3", "az", "gs", "hub"):
        request.getfixturevalue(name)
    if name == "hub":
        request.getfixturevalue("monkeypatch").setenv("HF_TOKEN", "hf_of_ann")
    return name
