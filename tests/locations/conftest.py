"""Each kind of location, for the tests that are the same for all."""

from collections.abc import Iterator

import pytest

from tests.locations.test_base import KINDS
from tests.support.azurite import Azurite, program, running


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """A server of Azure's blobs, where azurite of npm is on the path."""
    if program() is None:
        pytest.skip("azurite is not installed")
    with running() as server:
        yield server


@pytest.fixture
def azure(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Azurite:
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    return azurite


ON_SERVER = pytest.param("s3", marks=pytest.mark.xdist_group("s3"))


@pytest.fixture(params=[*(name for name in KINDS if name != "s3"), ON_SERVER])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name in ("s3", "az"):
        request.getfixturevalue("s3" if name == "s3" else "azure")
    if name == "hub":
        request.getfixturevalue("hub")
        request.getfixturevalue("monkeypatch").setenv("HF_TOKEN", "hf_of_ann")
    return name
