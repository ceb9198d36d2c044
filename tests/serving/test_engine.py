"""Swaps in a live engine against what vLLM itself loads from the unpacked folders, and says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.options import ServeOptions

import taskstore
from taskstore.errors import SwapError, UnknownTask
from tests.serving.support import architectures
from tests.serving.support.engines import FAMILY, engine, need_vllm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TASKS = ["english", "german", "roman"]
PROMPTS = ["<user>417<answer>", "<user>93<answer>", "<user>2068<answer>"]
PLAIN = "taskstore_serving.worker.TaskWorker"
UNPACKED = "tests.serving.support.unpacked.UnpackedWorker"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example family: `store`, `assets` of the base, and each task unpacked by its mask."""
    need_vllm()
    root = tmp_path_factory.mktemp("served")
    tasks = {task: FAMILY / task for task in TASKS}
    options = taskstore.PackOptions(tiers="mask,rest", residual=2.0)
    taskstore.pack(FAMILY / "base", tasks, root / "store", options)
    store = taskstore.open(root / "store")
    store.write_assets(None, root / "assets")
    store.unpack(None, root / "base")
    for task in TASKS:
        store.unpack(task, root / task, tier="mask")
    return root


def serving(folders: Path, *tasks: str, residual: Any = 0, **changes: Any) -> dict[str, Any]:
    """Options of an engine that serves the store."""
    options = ServeOptions(str(folders / "store"), tasks, residual=residual)
    return {
        "load_format": "taskstore",
        "model_loader_extra_config": options.to_dict(),
        "worker_cls": PLAIN,
        "enable_prefix_caching": False,
        **changes,
    }


def read(model: Any) -> dict[str, bytes]:
    """Bits of every parameter of a model, in the order of a checkpoint."""
    import torch

    family: Any = getattr(model, "taskstore_family", None)
    lives = {live.name: live for live in family.lives} if family else {}
    found = {}
    for name, parameter in model.named_parameters():
        live = lives.get(name)
        plain = family.order.plain(live).tensor if live else parameter.detach().contiguous()
        found[name] = plain.view(-1).view(torch.uint8).numpy().tobytes()
    return found


def weights(llm: Any) -> dict[str, bytes]:
    found: dict[str, bytes] = llm.apply_model(read)[0]
    return found


def loads(folder: Path, dtype: str) -> dict[str, bytes]:
    """What vLLM loads from a folder, before it prepares weights for computing."""
    with architectures.loaded(folder, dtype=dtype) as model:
        return read(model)


def answers(llm: Any) -> list[list[int]]:
    from vllm import SamplingParams

    how = SamplingParams(temperature=0, max_tokens=24)
    found = [llm.generate(prompt, how, use_tqdm=False)[0] for prompt in PROMPTS]
    return [list(one.outputs[0].token_ids) for one in found]


def call(llm: Any, method: str, *args: Any) -> Any:
    return llm.collective_rpc(f"taskstore_{method}", args=args)[0]


def test_rests_are_served_in_bfloat16(folders: Path, tmp_path: Path) -> None:
    store = taskstore.open(folders / "store")
    wanted: dict[str | None, dict[str, bytes]] = {None: loads(folders / "base", "bfloat16")}
    for name in ("german", "roman"):
        store.unpack(name, tmp_path / name, tier="rest")
        wanted[name] = loads(tmp_path / name, "bfloat16")
    changes = serving(folders, "german", "roman", residual=1, dtype="bfloat16")
    with engine(folders / "assets", **changes) as llm:
        for task in ("roman", "german", None, "roman", "german"):
            call(llm, "swap", task)
            assert weights(llm) == wanted[task]
        assert {known["tier"] for known in call(llm, "state")["tasks"].values()} == {"rest"}


def spoken(llm: Any, model: Path) -> str:
    """What the engine says to 417, greedily."""
    from transformers import AutoTokenizer
    from vllm import SamplingParams

    how = SamplingParams(temperature=0, max_tokens=24)
    said = llm.generate(PROMPTS[0], how, use_tqdm=False)[0].outputs[0].token_ids
    return str(AutoTokenizer.from_pretrained(model).decode(said, skip_special_tokens=True)).strip()


def test_matrices_in_the_order_of_the_kernel_swap_to_the_same_weights(folders: Path) -> None:
    """bfloat16 where the processor multiplies it; elsewhere they stay as they are."""
    import torch

    wanted = {t: loads(folders / (t or "base"), "bfloat16") for t in (None, "german", "roman")}
    changes = serving(folders, "german", "roman", dtype="bfloat16")
    with engine(folders / "assets", **changes) as llm:
        reordered = call(llm, "state")["reordered"]
        assert bool(reordered) == torch.cpu._is_avx512_bf16_supported()
        for _ in range(2):
            for task in ("roman", "german", None, "roman"):
                call(llm, "swap", task)
                assert weights(llm) == wanted[task]
            call(llm, "remove", "german")
            call(llm, "add", "german")  # learned where matrices are reordered already
        assert {found["task"] for found in call(llm, "verify", "*")} == set(wanted)
        said = {}
        for task in ("german", "roman"):
            call(llm, "swap", task)
            said[task] = spoken(llm, folders / "assets")
        assert said == {"german": "vierhundertsiebzehn", "roman": "CDXVII"}


@pytest.fixture(scope="module")
def dedicated(folders: Path) -> dict[str | None, list[list[int]]]:
    """What engines on single folders answer, in fp32."""
    found: dict[str | None, list[list[int]]] = {}
    for task in (None, "german", "roman"):
        folder = folders / (task or "base")
        with engine(folder, dtype="float32", worker_cls=UNPACKED) as llm:
            found[task] = answers(llm)
    assert len({str(said) for said in found.values()}) == 3  # tasks do answer otherwise
    return found


@pytest.fixture(scope="module")
def wanted(folders: Path) -> dict[str | None, dict[str, bytes]]:
    """Weights of the base and every task, in fp32."""
    return {task: loads(folders / (task or "base"), "float32") for task in (None, *TASKS)}


@pytest.fixture(scope="module")
def served(folders: Path, dedicated: object, wanted: object) -> Iterator[Any]:
    """One engine for the tests that follow, in fp32, with two tasks of three.

    All others were before it: two in one process cannot be.
    """
    changes = serving(folders, "english", "german", dtype="float32")
    with engine(folders / "assets", **changes) as llm:
        yield llm


def test_every_swap_gives_the_weights_that_vllm_loads(
    served: Any, wanted: dict[str | None, dict[str, bytes]]
) -> None:
    call(served, "add", "roman")
    for task in random.Random(5).choices([None, *TASKS], k=40):
        call(served, "swap", task)
        assert weights(served) == wanted[task]


def test_answers_are_those_of_an_engine_of_ones_own(served: Any, dedicated: Any) -> None:
    for task in ("roman", None, "german", "roman"):
        call(served, "swap", task)
        assert answers(served) == dedicated[task]


def test_a_worker_answers_calls_about_its_tasks(served: Any) -> None:
    call(served, "swap", "german")
    german = weights(served)
    assert [found["task"] for found in call(served, "verify", "*")] == [None, *TASKS]
    assert weights(served) == german
    call(served, "swap", "roman")
    call(served, "remove", "roman")
    state = call(served, "state")
    assert state["verified"] and state["active"] is None
    assert set(state["tasks"]) == {"english", "german"}
    with pytest.raises(UnknownTask):
        call(served, "swap", "roman")
    with pytest.raises(SwapError, match="does not load other weights"):
        served.collective_rpc("reload_weights")
    one = SimpleNamespace(lora_name="english")
    assert served.collective_rpc("add_lora", args=(one,)) == [True]
    assert served.collective_rpc("list_loras") == [set()]
    with pytest.raises(ValueError, match="no task 'roman' is served"):
        served.collective_rpc("add_lora", args=(SimpleNamespace(lora_name="roman"),))
