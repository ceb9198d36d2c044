"""The hooks under the next vLLM, whose wheel is for GPUs: imported, and its scheduler driven.

    pip download --no-deps vllm==0.33.0 && unzip -d next vllm-0.33.0-*.whl
    TASKSTORE_NEXT_VLLM=next pytest tests/serving/test_next_vllm.py

It wants orjson too, which 0.32 does not. Modules that need its compiled parts or a GPU cannot be
imported: so nothing is computed.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import taskstore_serving

from tests.support import ROOT

NEXT = os.environ.get("TASKSTORE_NEXT_VLLM", "")
ONLY_ON = {"cpu_worker"}  # modules of builds for the CPU
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def imported() -> list[tuple[str, str]]:
    """Modules and names of vLLM that the plug-in imports, anywhere in it."""
    found = set()
    for path in Path(taskstore_serving.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                found |= {(node.module or "", alias.name) for alias in node.names}
    return sorted(found)


OVERRIDDEN = {
    "vllm.v1.core.sched.scheduler.Scheduler": ["schedule", "update_from_output", "finish_requests",
                                               "_preempt_request"],
    "vllm.v1.engine.output_processor.OutputProcessor": ["add_request", "abort_requests",
                                                        "propagate_error",
                                                        "_update_stats_from_finished"],
    "vllm.v1.engine.input_processor.InputProcessor": ["_validate_lora", "_get_mm_identifier"],
    "vllm.v1.engine.async_llm.AsyncLLM": ["add_request", "generate", "collective_rpc"],
    "vllm.v1.structured_output.StructuredOutputManager": ["grammar_init", "grammar_bitmask",
                                                          "accept_tokens", "clear_backend",
                                                          "_get_reasoner"],
    "vllm.v1.worker.gpu_worker.Worker": ["load_model", "execute_model", "sample_tokens",
                                         "add_lora", "remove_lora", "list_loras", "pin_lora"],
    "vllm.v1.core.kv_cache_manager.KVCacheManager": ["allocate_slots", "evict_blocks",
                                                     "get_block_ids"],
}  # fmt: skip


def test_all_that_is_imported_and_overridden_is_there() -> None:
    """Of the vLLM that this process imports."""
    pytest.importorskip("vllm")
    moved = {"vllm.entrypoints.common", "vllm.entrypoints.launchers"}  # one of them has cli_args
    missing, places = [], 0
    for module, name in imported():
        try:
            there = hasattr(import_module(module), name) or bool(import_module(f"{module}.{name}"))
        except ImportError:
            there = False
        places += module in moved and bool(there)
        if not there and module not in moved and module.split(".")[-1] not in ONLY_ON:
            missing.append(f"{module}.{name}")
    for where, methods in OVERRIDDEN.items():
        module, _, kind = where.rpartition(".")
        found = getattr(import_module(module), kind)
        missing += [f"{where}.{one}" for one in methods if not callable(getattr(found, one, None))]
        assert "__slots__" not in vars(found)
    assert (missing, places) == ([], 1)


def test_what_is_passed_on_is_taken() -> None:
    pytest.importorskip("vllm")
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.outputs import ModelRunnerOutput

    scheduler = inspect.signature(Scheduler.update_from_output).parameters
    assert list(scheduler) == ["self", "scheduler_output", "model_runner_output"]
    assert not hasattr(SchedulerOutput, "__slots__")  # it carries the task of a step
    assert not hasattr(ModelRunnerOutput, "__slots__")


@pytest.mark.skipif(not NEXT, reason="TASKSTORE_NEXT_VLLM names no unpacked wheel")
def test_the_next_vllm_has_the_hooks_and_its_scheduler_keeps_to_them() -> None:
    paths = [NEXT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths))}
    del environment["TASKSTORE_NEXT_VLLM"]
    files = [Path(__file__), Path(__file__).parent / "test_scheduler_alone.py"]
    options = ["-p", "tests.serving.support.next_vllm", "-n", "0", *map(str, files)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-6000:]
    assert " skipped" in run.stdout.splitlines()[-1] and "passed" in run.stdout.splitlines()[-1]
