"""Fixtures and Hypothesis profiles, both without deadlines: `dev` tries new examples each run and
is quick; `ci` looks longer, at the same examples each run, so that what fails is what changed.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():  # read when the kernels are imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from taskstore_cli.output import console
from taskstore_cli.output.console import versioned

import taskstore
from tests.support import azurite, clouds, families, google_storage, json_schema, seaweed
from tests.support.azurite import Azurite
from tests.support.google_storage import GoogleStorage
from tests.support.hub.faults import Hub
from tests.support.hub.fixtures import a_hub
from tests.support.seaweed import Seaweed

_CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
settings.register_profile("dev", max_examples=25, deadline=None, suppress_health_check=_CHECKS)
settings.register_profile(
    "ci", max_examples=60, deadline=None, suppress_health_check=_CHECKS, derandomize=True
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

FAMILIES = Path(os.environ.get("TASKSTORE_FAMILIES", "../shared/families"))


def pytest_configure() -> None:
    """With TASKSTORE_EXPECT_INSTALLED the suite must run against the built wheel.

    A shell's background job ignores SIGINT, and so would every process that a test interrupts.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("TASKSTORE_EXPECT_INSTALLED"):
        home = Path(taskstore.__file__).parent
        assert home.parent.name == "site-packages", f"taskstore is imported from {home}"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> families.Family:
    """Three bf16 fine-tunes of a base; never written to."""
    return families.family(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def packed(small: families.Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `small`; never written to, copy it to break it."""
    target = tmp_path_factory.mktemp("packed") / "store"
    taskstore.pack(small.base_path, small.paths, target, families.options())
    return target


@pytest.fixture(scope="session")
def seaweed_server() -> Iterator[Seaweed]:
    """A server of S3, for all tests of a worker."""
    with seaweed.running() as server:
        yield server


@pytest.fixture(scope="session")
def azurite_server() -> Iterator[Azurite]:
    """A server of Azure's blobs, where azurite of npm is on the path."""
    if azurite.program() is None:
        pytest.skip("azurite is not installed: npm install -g azurite")
    with azurite.running() as server:
        yield server


@pytest.fixture(scope="session")
def google_server() -> Iterator[GoogleStorage]:
    """A server of Google's object store."""
    with google_storage.running() as server:
        yield server


@pytest.fixture
def emptied_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("TASKSTORE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def s3(seaweed_server: Seaweed, emptied_cache: None, monkeypatch: pytest.MonkeyPatch) -> Seaweed:
    """The server, an environment in which clients find it, and an empty cache."""
    clouds.point_at("s3", seaweed_server.environment(), monkeypatch)
    return seaweed_server


@pytest.fixture
def az(azurite_server: Azurite, emptied_cache: None, monkeypatch: pytest.MonkeyPatch) -> Azurite:
    """The same for Azure."""
    clouds.point_at("az", azurite_server.environment(), monkeypatch)
    return azurite_server


@pytest.fixture
def gs(
    google_server: GoogleStorage, emptied_cache: None, monkeypatch: pytest.MonkeyPatch
) -> GoogleStorage:
    """The same for Google."""
    clouds.point_at("gs", google_server.environment(), monkeypatch)
    return google_server


@pytest.fixture(params=clouds.EACH)
def scheme(request: pytest.FixtureRequest) -> str:
    """Each kind of object store, with its server."""
    name: str = request.param
    request.getfixturevalue(name)
    return name


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback, for one test."""
    with a_hub(tmp_path_factory.mktemp("hub-cache"), monkeypatch) as server:
        yield server


def real_family(name: str) -> Path:
    """A shared real family; skips, and says why, where it is not there."""
    path = FAMILIES / name
    if not path.is_dir():
        pytest.skip(f"{path} is not there; set TASKSTORE_FAMILIES to the families' folder")
    return path


def evaluator(family: str) -> Any:
    """The module `eval.py` of a shared family."""
    spec = importlib.util.spec_from_file_location(family, real_family(family) / "eval.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def schema_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every object that a command prints in this process is what its schema says."""

    def checked(document: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
        printed = versioned(document, kind)
        json_schema.check(printed)
        return printed

    monkeypatch.setattr(console, "versioned", checked)
