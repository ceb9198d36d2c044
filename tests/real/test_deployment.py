"""What examples/serve starts is a command line that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from taskstore_serving.checks import platform, versions

from tests.cli.test_cli import run
from tests.support import ROOT

SERVE = ROOT / "examples" / "serve"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((SERVE / name).read_text()))


def container() -> dict[str, Any]:
    deployment = documents("kubernetes.yaml")[0]
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return found


def compose() -> dict[str, Any]:
    found: dict[str, Any] = documents("compose.yaml")[0]["services"]["family"]
    return found


@pytest.mark.parametrize(
    "words", [compose()["command"], container()["args"]], ids=["compose", "kubernetes"]
)
def test_they_serve_the_mounted_store(
    words: list[str], packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "installed", lambda: "0.32.0")
    monkeypatch.setattr(platform, "on_cpu", lambda: True)
    command, store, *more = words
    assert (command, store) == ("serve", "/store")
    at = more.index("--")
    done = run("serve", packed, *more[:at], "--print-command", *more[at:])
    assert done.exit_code == 0, done.output
    assert "--host 0.0.0.0" in done.stdout
    assert done.stdout.strip().endswith(" ".join(more[at + 1 :]))


def test_the_store_is_read_only_and_the_key_is_asked_for() -> None:
    assert any(volume.endswith(":/store:ro") for volume in compose()["volumes"])
    assert compose()["environment"]["TASKSTORE_API_KEY"].startswith("${TASKSTORE_API_KEY:?")
    mounts = {mount["mountPath"]: mount for mount in container()["volumeMounts"]}
    assert mounts["/store"]["readOnly"]
    key = next(one for one in container()["env"] if one["name"] == "TASKSTORE_API_KEY")
    assert "secretKeyRef" in key["valueFrom"]


def test_probes_ask_for_weights_that_are_proved_and_an_engine_that_lives() -> None:
    paths = {
        probe: container()[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {
        "startupProbe": "/ready",
        "readinessProbe": "/ready",
        "livenessProbe": "/health",
    }
    service = documents("kubernetes.yaml")[1]["spec"]
    assert service["ports"][0]["targetPort"] == container()["ports"][0]["name"]
