"""What examples/serve starts is a command line that exists."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from taskstore_serving.checks import platform, versions

from taskstore.packing.parts import driver
from tests.cli.test_cli import run
from tests.support import ROOT
from tests.support.elsewhere import OtherProcess
from tests.support.families import Family

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


def rendered(name: str, values: dict[str, Any]) -> str:
    """A template of the chart as Helm fills it in: only what the chart uses of its language."""
    chart = SERVE / "chart"
    known = {**yaml.safe_load((chart / "values.yaml").read_text()), **values}
    text = (chart / "templates" / name).read_text()

    def value(path: str) -> Any:
        found: Any = {"Release": {"Name": "family"}, "Values": known}
        for part in path.removeprefix("$").strip(".").split("."):
            found = found[part]
        return found

    def repeated(found: re.Match[str]) -> str:
        names, what, body = found.groups()
        rows = enumerate(range(value(what))) if "." not in names and "until" in found[0] else ()
        every = rows or value(what).items()
        first, _, second = names.replace(" ", "").partition(",")
        return "".join(
            body.replace(f"{{{{ {first} }}}}", str(key)).replace(f"{{{{ {second} }}}}", str(one))
            for key, one in every
        )

    loop = r"\s*\{\{- range (.*?) := (?:until \(int )?([.\w]+)\)? \}\}(.*?)\s*\{\{- end \}\}"
    text = re.sub(loop, repeated, text, flags=re.DOTALL)
    text = re.sub(r"\{\{- toYaml ([.\w]+) .*?\}\}", lambda m: json.dumps(value(m[1])), text)
    text = re.sub(r"\{\{-? ([$.\w]+)(?: \| int)? \}\}", lambda m: str(value(m[1])), text)
    assert "{{" not in text, text
    return text


def test_the_chart_routes_to_every_server() -> None:
    values = {"replicas": 3, "tasks": {"billing": 0, "legal": 2}}
    servers, service = yaml.safe_load_all(rendered("servers.yaml", values))
    (pod,) = servers["spec"]["template"]["spec"]["containers"]
    same = ("startupProbe", "readinessProbe", "livenessProbe", "volumeMounts", "securityContext")
    assert [pod[key] for key in same] == [container()[key] for key in same]
    assert pod["args"] == container()["args"]
    assert servers["spec"]["replicas"] == 3
    assert servers["spec"]["serviceName"] == service["metadata"]["name"]
    settings, router, clients = yaml.safe_load_all(rendered("router.yaml", values))
    assert settings["data"]["tasks.map"].split("\n")[:2] == ["billing s0", "legal s2"]
    addresses = re.findall(r"server s(\d) (\S+):8000", settings["data"]["haproxy.cfg"])
    name = servers["metadata"]["name"]
    assert addresses == [(str(n), f"{name}-{n}.{name}-servers") for n in range(3)]
    assert clients["spec"]["selector"] == router["spec"]["template"]["metadata"]["labels"]


def of_cluster(name: str) -> str:
    """The command of an example of examples/cluster."""
    text = (ROOT / "examples" / "cluster" / name).read_text()
    if name == "slurm.sh":
        return text.split("exec ")[1].replace("\\\n", " ")
    spec = yaml.safe_load(text)["spec"]
    if name == "kuberay-job.yaml":
        return str(spec["entrypoint"])
    return str(spec["template"]["spec"]["containers"][0]["args"][0]).removeprefix("exec ")


@pytest.mark.parametrize("name", ["slurm.sh", "kubernetes-job.yaml", "kuberay-job.yaml"])
def test_what_a_cluster_starts_packs(
    name: str, small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of the first job, of other models at another place."""
    monkeypatch.setattr(driver, "connect", lambda *_: OtherProcess())
    models = " ".join(f"{task}={path}" for task, path in small.paths.items())
    known = {
        r'"?(\$BASE|/shared/llama)"?': small.base_path,
        r"(\$TASKS|billing=\S+ legal=\S+)": models,
        r'"?(\$STORE|/shared/family)"?': tmp_path / "s",
        r"\$SLURM_ARRAY_TASK_ID|\$\(\(JOB_COMPLETION_INDEX \+ 1\)\)": "1",
        r"\$SLURM_CPUS_PER_TASK": "2",
    }
    line = of_cluster(name)
    for pattern, value in known.items():
        line = re.sub(pattern, str(value), line)
    done = run(*shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "s").exists() == ("--cluster" in line)
    assert (tmp_path / "s.parts").exists() == ("--part" in line)
