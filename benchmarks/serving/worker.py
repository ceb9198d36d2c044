"""One engine in a process of its own, told what to do line by line: `worker.py JSON`.

Orders are lines of JSON on standard input, each answered by one line on standard output: `load`
runs requests, so many in flight at a time; `switch` times changes of the weights between them;
`memory`. Two workers wait for each other, so that one measures while the other idles.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.common.cache import Cache
from benchmarks.common.family import weights_of
from benchmarks.swapping.process import Footprint

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_CI_ENV": "1"}

Found = dict[str, Any]


@dataclass
class Seen:
    """Of one request."""

    task: str | None
    added: float
    first: float = 0.0
    tokens: int = 0


@dataclass
class Engine:
    """A vLLM engine; with a store its requests name tasks, without they do not."""

    model: str
    store: str
    tasks: Sequence[str]
    options: Found
    llm: Any = field(init=False)

    def __post_init__(self) -> None:
        from taskstore_serving.options import ServeOptions
        from taskstore_serving.plugin import register

        register()
        from vllm import LLM

        if self.store:
            self.options |= {
                "load_format": "taskstore",
                "model_loader_extra_config": ServeOptions(self.store, tuple(self.tasks)).to_dict(),
                "worker_cls": "taskstore_serving.worker.TaskWorker",
                "scheduler_cls": "taskstore_serving.scheduler.TaskScheduler",
            }
        self.llm = LLM(
            model=self.model,
            skip_tokenizer_init=True,
            disable_log_stats=True,
            enforce_eager=True,
            async_scheduling=False,
            enable_prefix_caching=False,
            **self.options,
        )
        processor = self.llm.llm_engine.input_processor
        processor.lora_config = SimpleNamespace(enable_tower_connector_lora=True)
        self._number = 0

    def load(self, order: Found) -> Found:
        """Closed loop: a request that ends makes room for the next."""
        engine, chance = self.llm.llm_engine, random.Random(order["seed"])
        open_: dict[str, Seen] = {}
        done: list[Seen] = []
        before, began = self.swaps(), time.perf_counter()
        left = order["requests"]
        while left or open_:
            while left and len(open_) < order["concurrency"]:
                name, seen = self._add(chance, order)
                open_[name], left = seen, left - 1
            for output in engine.step():
                now, seen = time.perf_counter(), open_[output.request_id]
                seen.first = seen.first or now
                if output.finished:
                    seen.tokens = len(output.outputs[0].token_ids)
                    done.append(open_.pop(output.request_id))
        seconds, after = time.perf_counter() - began, self.swaps()
        return {
            "seconds": seconds,
            "tokens": sum(seen.tokens for seen in done),
            "first": {
                str(task): [s.first - s.added for s in done if s.task == task]
                for task in {seen.task for seen in done}
            },
            "swaps": after[0] - before[0],
            "swap_seconds": after[1] - before[1],
        }

    def _add(self, chance: random.Random, order: Found) -> tuple[str, Seen]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        self._number += 1
        name = str(self._number)
        task = chance.choice(self.tasks) if self.store else None
        carrier = None
        if task is not None:
            carrier = LoRARequest(task, self.tasks.index(task) + 1, f"taskstore://{task}")
        prompt = [chance.randrange(3, order["vocabulary"]) for _ in range(order["prompt"])]
        length = chance.randint(order["output"] // 2, order["output"] * 3 // 2)
        how = SamplingParams(
            temperature=0, max_tokens=length, ignore_eos=True, detokenize=False, seed=None
        )
        seen = Seen(task, time.perf_counter())
        self.llm.llm_engine.add_request(
            name, {"prompt_token_ids": prompt}, how, lora_request=carrier
        )
        return name, seen

    def switch(self, order: Found) -> Found:
        """Seconds of every change: a swap, or `reload_weights` from other folders."""
        seconds = []
        for to in order["to"]:
            if order.get("cold"):
                Cache("cold").prepare(weights_of(Path(to)))
            began = time.perf_counter()
            if self.store:
                self.llm.collective_rpc("taskstore_swap", args=(to,))
            else:
                self.llm.collective_rpc("reload_weights", kwargs={"weights_path": to})
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}

    def memory(self, order: Found) -> Found:
        import torch

        device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return {"resident": Footprint("cpu").now(), "device": device}

    def swaps(self) -> tuple[int, float]:
        if not self.store:
            return 0, 0.0
        state = self.llm.collective_rpc("taskstore_state")[0]
        return state["swaps"], state["swap_seconds"]


def main() -> None:
    out, given = os.fdopen(os.dup(1), "w"), json.loads(sys.argv[1])
    os.dup2(2, 1)  # whatever else is printed is no answer
    began = time.perf_counter()
    engine = Engine(given["model"], given["store"], given["tasks"], given["options"])
    print(json.dumps({"start": time.perf_counter() - began}), file=out, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(getattr(engine, order["do"])(order)), file=out, flush=True)


if __name__ == "__main__":
    main()
