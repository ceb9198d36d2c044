"""Swaps in a live engine against engines that vLLM itself started on the unpacked folders."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.options import ServeOptions

import taskstore
from taskstore.errors import UnknownTask
from tests.serving.engines import FAMILY, engine, need_vllm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TASKS = ["english", "german", "roman"]
PROMPTS = ["<user>417<answer>", "<user>93<answer>", "<user>2068<answer>"]
PLAIN = "taskstore_serving.worker.TaskWorker"
UNPACKED = "tests.serving.unpacked.UnpackedWorker"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example family: `store`, `assets` of the base, and each task unpacked."""
    need_vllm()
    root = tmp_path_factory.mktemp("served")
    tasks = {task: FAMILY / task for task in TASKS}
    taskstore.pack(FAMILY / "base", tasks, root / "store", taskstore.PackOptions(tiers="mask"))
    store = taskstore.open(root / "store")
    store.write_assets(None, root / "assets")
    store.unpack(None, root / "base")
    for task in TASKS:
        store.unpack(task, root / task)
    return root


def serving(folders: Path, **changes: Any) -> dict[str, Any]:
    """Options of an engine that serves the store."""
    return {
        "load_format": "taskstore",
        "model_loader_extra_config": ServeOptions(str(folders / "store")).to_dict(),
        "worker_cls": PLAIN,
        "enable_prefix_caching": False,
        **changes,
    }


def weights(llm: Any) -> dict[str, bytes]:
    """Bits of every parameter of an engine."""
    import torch

    def read(model: Any) -> dict[str, bytes]:
        return {
            name: p.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            for name, p in model.named_parameters()
        }

    found: dict[str, bytes] = llm.apply_model(read)[0]
    return found


def answers(llm: Any) -> list[list[int]]:
    from vllm import SamplingParams

    how = SamplingParams(temperature=0, max_tokens=24)
    found = [llm.generate(prompt, how, use_tqdm=False)[0] for prompt in PROMPTS]
    return [list(one.outputs[0].token_ids) for one in found]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_swap_gives_the_weights_of_an_engine_on_the_folder(folders: Path, dtype: str) -> None:
    wanted = {}
    for task in (None, *TASKS):
        with engine(folders / (task or "base"), dtype=dtype, worker_cls=UNPACKED) as llm:
            wanted[task] = weights(llm), answers(llm)
    assert len({tuple(map(tuple, w[1])) for w in wanted.values()}) > 2  # tasks do answer otherwise
    order = random.Random(5).choices([None, *TASKS], k=40)
    with engine(folders / "assets", dtype=dtype, **serving(folders)) as llm:
        for task in order:
            llm.collective_rpc("taskstore_swap", args=(task,))
            assert weights(llm) == wanted[task][0]
        for task in (*TASKS, None):
            llm.collective_rpc("taskstore_swap", args=(task,))
            if dtype == "float32":
                assert answers(llm) == wanted[task][1]


def test_a_worker_answers_calls_about_its_tasks(folders: Path) -> None:
    options = ServeOptions(str(folders / "store"), ("english", "german")).to_dict()
    changes = serving(folders, model_loader_extra_config=options, dtype="float32")
    with engine(folders / "assets", **changes) as llm:

        def call(method: str, *args: Any) -> Any:
            return llm.collective_rpc(f"taskstore_{method}", args=args)[0]

        state = call("state")
        assert state["verified"] and state["active"] is None
        assert set(state["tasks"]) == {"english", "german"}
        call("swap", "german")
        call("add", "roman")
        german = weights(llm)
        assert [found["task"] for found in call("verify", "*")] == [None, *sorted(TASKS)]
        assert weights(llm) == german
        call("swap", "roman")
        said = answers(llm)
        call("remove", "roman")
        state = call("state")
        assert state["active"] is None and set(state["tasks"]) == {"english", "german"}
        with pytest.raises(UnknownTask):
            call("swap", "roman")
        one = SimpleNamespace(lora_name="english")
        assert llm.collective_rpc("add_lora", args=(one,)) == [True]
        assert llm.collective_rpc("list_loras") == [set()]
        with pytest.raises(ValueError, match="no task 'roman' is served"):
            llm.collective_rpc("add_lora", args=(SimpleNamespace(lora_name="roman"),))
    with engine(folders / "roman", dtype="float32") as llm:
        assert said == answers(llm)
