"""One real server for all tests that talk HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.serving.support.engines import need_vllm

if TYPE_CHECKING:
    from tests.serving.support.fronted import Server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Engines share one process and one server, where tests are spread over several."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.xdist_group("engines"))


@pytest.fixture(scope="session")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a family, and its `store`; never written to."""
    need_vllm()
    from tests.serving.support.fronted import make_family

    return make_family(tmp_path_factory.mktemp("fronted"))


@pytest.fixture(scope="session")
def server(fronted: Path) -> Iterator[Server]:
    """Four tasks behind one URL, english for those who name none. A test leaves it with all."""
    from tests.serving.support.fronted import TASKS, serving

    with serving(fronted, "--default-task", "english", "--tasks", ",".join(TASKS)) as found:
        yield found


@pytest.fixture(scope="session")
def wanted(fronted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What transformers says with each unpacked folder: its template, weights and ends."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import taskstore
    from tests.serving.support.fronted import NUMBERS, TASKS

    found: dict[str, dict[str, str]] = {}
    for task in (None, *TASKS):
        folder = tmp_path_factory.mktemp("unpacked") / "model"
        taskstore.open(fronted / "store").unpack(task, folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        ends = np.atleast_1d(model.generation_config.eos_token_id)
        answers = found[task or "base"] = {}
        for number in NUMBERS:
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": number}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            ids = model.generate(**asked, do_sample=False, max_new_tokens=24)[0]
            new = ids[asked["input_ids"].shape[1] :].tolist()
            if new[-1] in ends:
                new.pop()
            answers[number] = tokenizer.decode(new, skip_special_tokens=True)
    return found
