"""The examples for Prometheus and Grafana ask for metrics that exist."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from taskstore_serving.metrics.instruments import Instruments

from tests.support import ROOT

FOLDER = ROOT / "examples" / "serve"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def names(expression: str) -> set[str]:
    """Metrics of an expression: what is left without selectors, ranges, labels and functions."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|without)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"(?<![\w:.])[a-zA-Z_][\w:]*(?![\w:])(?!\s*\()", bare))


def labels(expression: str) -> dict[str, set[str]]:
    """Labels that an expression selects by, of each metric."""
    found = re.findall(r"([a-zA-Z_][\w:]*)\{([^}]*)\}", expression)
    return {name: set(re.findall(r"(\w+)\s*[=!]", inside)) for name, inside in found}


def ours() -> dict[str, set[str]]:
    """Our series and their labels."""
    registry, found = CollectorRegistry(), {}
    for metric in vars(Instruments(registry)).values():
        name, own = metric._name, set(metric._labelnames)
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        for end in ends.get(metric._type, [""]):
            found[name + end] = own | ({"le"} if end == "_bucket" else set())
    return found


def vllms() -> set[str]:
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed: pip install '.[serve-cpu]'")
    source = Path(spec.submodule_search_locations[0]) / "v1" / "metrics" / "loggers.py"
    plain = re.findall(r'name="(vllm:\w+)"', source.read_text())
    return {name + end for name in plain for end in ("", "_total", "_bucket")}


def test_every_metric_that_a_panel_names_exists() -> None:
    named = set().union(*map(names, expressions()))
    known = ours()
    assert {name for name in named if name.startswith("taskstore_")} <= set(known)
    assert len(named) > 10
    for expression in expressions():
        for name, used in labels(expression).items():
            if name in known:
                assert used <= known[name] | {"job", "instance"}, expression


def test_every_metric_of_vllms_exists() -> None:
    named = {n for n in set().union(*map(names, expressions())) if not n.startswith("taskstore_")}
    assert "vllm:kv_cache_usage_perc" in named
    assert named <= vllms()


def test_every_metric_of_ours_is_shown() -> None:
    shown = set().union(*map(names, expressions()))
    mine = {n for n in ours() if n.startswith("taskstore_")}  # vLLM's names are for routers
    assert {n for n in mine if not n.endswith(("_sum", "_count"))} <= shown


def test_names_are_read_off_expressions() -> None:
    expression = (
        'histogram_quantile(0.99, sum by (le) (rate(a:b_bucket{task=~"x"}[$__rate_interval])))'
        " / sum(rate(other[5m])) > 0"
    )
    assert names(expression) == {"a:b_bucket", "other"}


def test_panels_have_ids_of_their_own_and_places_that_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_the_datasource_is_chosen_and_every_variable_is_declared() -> None:
    declared = {variable["name"] for variable in VARIABLES}
    assert [v["query"] for v in VARIABLES if v["type"] == "datasource"] == ["prometheus"]
    asking = [*PANELS, *(target for panel in PANELS for target in panel["targets"])]
    asking += [v for v in VARIABLES if v["type"] == "query"]
    assert all(one["datasource"] == DATASOURCE for one in asking)
    queries = expressions() + [v["definition"] for v in VARIABLES if "definition" in v]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(queries))) - {"__rate_interval"}
    assert used == {"job", "task"} and used <= declared
    for variable in VARIABLES:
        if variable["type"] == "query":
            (metric,) = re.findall(r"label_values\((\w+)", variable["definition"])
            assert metric in ours()


def test_parts_of_every_panel_fit_together() -> None:
    for panel in PANELS:
        ids = [target["refId"] for target in panel["targets"]]
        assert ids and len(set(ids)) == len(ids), panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), target["expr"]


def test_prometheus_scrapes_vllms_path() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("taskstore", "/metrics")
    assert job["static_configs"][0]["targets"] == ["localhost:8000"]
