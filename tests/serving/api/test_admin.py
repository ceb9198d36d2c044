"""Our routes and the list of tasks behind them, on an engine that is played."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.options import ServeOptions

from taskstore.errors import InputError
from tests.serving.support.engines import need_vllm
from tests.serving.support.played import FIDELITY, Engine, app_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def engine() -> Engine:
    need_vllm()
    return Engine()


@pytest.fixture
def args() -> Namespace:
    return Namespace(model="folder", served_model_name=["base"], api_key=["key"])


@pytest.fixture
def client(packed: Path, engine: Engine, args: Namespace, monkeypatch: pytest.MonkeyPatch) -> Any:
    from starlette.testclient import TestClient

    return TestClient(app_of(packed, engine, args, monkeypatch))


def listed(client: Any) -> list[str]:
    return sorted(card["id"] for card in client.get("/v1/models").json()["data"])


def test_models_say_what_they_keep_of_their_fine_tunes(client: Any) -> None:
    for card in client.get("/v1/models").json()["data"]:
        told = card["taskstore"]
        assert (told["tier"], told["fidelity"], told["scores"]) == ("mask", FIDELITY, None)
    told = client.get("/v1/taskstore").json()["tasks"]["alpha"]
    assert told["fidelity"]["grade"] == "B"


def test_a_model_answers_to_its_id_at_the_hub_where_no_other_has_it(client: Any) -> None:
    served = client.app.state.taskstore
    assert served.named("org/model") == "org/model"
    served._came_from("alpha", "org/model", "f00d")
    served._came_from("base", "org/base", "f00d")
    served._came_from("beta", "/a/folder", None)
    assert [served.named(n) for n in ("org/model", "org/base", "/a/folder")] == [
        "alpha", "base", "/a/folder"
    ]  # fmt: skip
    assert client.get("/v1/models/org/model").json()["id"] == "alpha"
    served._came_from("beta", "org/model", "f00d")
    assert served.named("org/model") == "org/model"
    assert client.get("/v1/models/org/model").status_code == 404


def test_without_a_key_nothing_can_be_changed(client: Any, args: Namespace) -> None:
    args.api_key = None
    for method, path in (
        ("POST", "/v1/taskstore/verify"),
        ("POST", "/v1/taskstore/tasks/gamma"),
        ("DELETE", "/v1/taskstore/tasks/alpha"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
    ):
        found = client.request(method, path)
        assert found.status_code == 403
        assert "--api-key" in found.json()["error"]["message"]
    assert client.get("/v1/taskstore").json()["tasks"].keys() == {"alpha", "beta"}


def test_ready_only_with_a_live_engine_and_verified_weights(client: Any, engine: Engine) -> None:
    assert client.get("/ready").status_code == 200
    engine.refusals["taskstore_verify"] = "1 of 9 tensors are not those of task 'alpha'"
    found = client.post("/v1/taskstore/verify", json={"task": "alpha"})
    assert (found.status_code, found.json()["error"]["type"]) == (409, "ConflictError")
    assert "1 of 9 tensors" in found.json()["error"]["message"]
    assert client.get("/ready").status_code == 503
    engine.refusals.clear()
    assert client.post("/v1/taskstore/verify", json={"task": "alpha"}).status_code == 200
    assert client.get("/ready").status_code == 503  # one task does not prove all
    assert client.post("/v1/taskstore/verify", json={}).status_code == 200
    assert client.get("/ready").status_code == 200
    engine.errored = True
    assert "engine has stopped" in client.get("/ready").json()["error"]["message"]


def test_what_the_worker_refuses_changes_nothing(client: Any, engine: Engine) -> None:
    engine.refusals = {"taskstore_add": "no memory", "taskstore_remove": "is live"}
    for method, name, why in (("POST", "gamma", "no memory"), ("DELETE", "alpha", "is live")):
        found = client.request(method, f"/v1/taskstore/tasks/{name}")
        assert (found.status_code, found.json()["error"]["message"]) == (400, why)
        assert listed(client) == ["alpha", "beta"]
    assert client.app.state.taskstore.resolve("alpha").requests["alpha"]
    engine.refusals, engine.said = {}, {"rope_theta": 5}
    found = client.post("/v1/taskstore/tasks/gamma")
    assert found.status_code == 400
    assert "its config says rope_theta=5" in found.json()["error"]["message"]
    assert engine.tasks == ["alpha", "beta"]
    engine.said = {}
    assert client.post("/v1/taskstore/tasks/gamma").status_code == 201
    assert client.delete("/v1/taskstore/tasks/alpha").status_code == 200
    assert listed(client) == ["beta", "gamma"]


def test_a_task_under_its_old_name_is_another_to_vllm(client: Any, engine: Engine) -> None:
    tasks = client.app.state.taskstore
    tasks.is_current = lambda task: True
    before = tasks.tasks["alpha"].front.requests["alpha"]
    body = {"lora_name": "alpha", "lora_path": "any", "load_inplace": True}
    assert client.post("/v1/load_lora_adapter", json=body).status_code == 200
    after = tasks.tasks["alpha"].front.requests["alpha"]
    assert before.lora_path == after.lora_path  # the same weights, so cached blocks may be used
    assert before.lora_int_id != after.lora_int_id
    assert ("taskstore_remove", "alpha") in engine.calls


@pytest.mark.parametrize("inplace", [True, False])
def test_new_weights_of_a_task_are_another_to_vllm(
    client: Any, engine: Engine, inplace: bool
) -> None:
    def post() -> Any:
        body = {"lora_name": "alpha", "lora_path": "any", "load_inplace": True}
        route = "load_lora_adapter" if inplace else "taskstore/tasks/alpha"
        return client.post(f"/v1/{route}", json=body)

    tasks = client.app.state.taskstore  # the engine says other digests than those of the store
    before = tasks.tasks["alpha"]
    request = before.front.requests["alpha"]
    engine.refusals["taskstore_replace"] = "no memory for both"
    found = post()
    assert (found.status_code, found.json()["error"]["message"]) == (400, "no memory for both")
    assert tasks.tasks["alpha"] is before and before.front.requests["alpha"] is request
    assert engine.calls == [("taskstore_settle", "alpha", False)]
    engine.refusals.clear()
    with tasks.running("beta"):  # others go on
        assert post().status_code < 300
    assert engine.calls[1:] == [("taskstore_replace", "alpha"), ("taskstore_settle", "alpha", True)]
    after = tasks.tasks["alpha"]
    assert (after.digest, listed(client)) == ("new", ["alpha", "beta"])
    assert after.front.requests["alpha"].lora_path.endswith("/new")  # no cached block is used
    assert request.lora_path.endswith("/d-alpha")


def test_requests_wait_while_a_task_gets_its_new_weights(client: Any, engine: Engine) -> None:
    async def meanwhile() -> list[str]:
        tasks, found = client.app.state.taskstore, list[str]()
        tasks.change = asyncio.Lock()

        async def ask(name: str) -> None:
            await tasks.settled(name)
            found.append(f"{name} {tasks.tasks[name].digest}")

        with tasks.running("alpha"):  # an old request, which is not cut off
            change = asyncio.create_task(tasks.add("alpha"))
            async with asyncio.timeout(120):
                while "alpha" not in tasks.replaced:
                    await asyncio.sleep(0.001)
                asked = [asyncio.create_task(ask(name)) for name in ("alpha", "beta")]
                while not found:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)  # an answer of alpha's would be there by now
            found.append("the old request ends")
        await asyncio.gather(change, *asked)
        return found

    assert asyncio.run(meanwhile()) == ["beta d-beta", "the old request ends", "alpha new"]


@pytest.mark.parametrize("inside", ["background", "connection"])
def test_a_busy_task_is_put_back(client: Any, engine: Engine, inside: str) -> None:
    tasks, states = client.app.state.taskstore, engine.output_processor.request_states
    states["r"] = SimpleNamespace(lora_name="alpha" if inside == "background" else None)
    with tasks.running("alpha" if inside == "connection" else "beta"):
        found = client.delete("/v1/taskstore/tasks/alpha?wait=0.05")
    assert found.status_code == 409
    assert tasks.resolve("alpha").requests["alpha"]
    assert client.delete("/v1/taskstore/tasks/beta?wait=0").status_code == 200


def test_servers_that_cannot_be_right_do_not_start(
    packed: Path, engine: Engine, args: Namespace, client: Any
) -> None:
    from starlette.datastructures import State
    from taskstore_serving.endpoint import TaskstoreEndpoint

    def start(default: str = "") -> None:
        options = ServeOptions(str(packed), default_task=default).to_dict()
        engine.vllm_config.load_config.model_loader_extra_config = options
        plugin = TaskstoreEndpoint()
        plugin._app = client.app
        asyncio.run(plugin.init_state(engine, State(), args))

    with pytest.raises(InputError, match="default task 'gamma' is not among"):
        start("gamma")
    args.served_model_name = ["alpha"]
    with pytest.raises(InputError, match="task 'alpha' has the name that the base"):
        start()
    engine.vllm_config.load_config.load_format = "auto"
    with pytest.raises(InputError, match="--load-format taskstore"):
        start()
