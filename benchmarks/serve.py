"""Six tasks on one vLLM engine, beside engines that have one task each.

    python benchmarks/serve.py --params 1e8 --tasks 6
    python benchmarks/serve.py --family DIR --base base --tasks billing,legal

Three engines live side by side and are driven in turn, so that a busy machine slows all of them:
stock vLLM on one fine-tune's folder, a store with all tasks, a store with one. See
benchmarks/README.md for what is measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import table
from benchmarks.common.cache import Cache
from benchmarks.common.family import Family, size_of, weights_of
from benchmarks.common.given import family_options, given_family, title_of
from benchmarks.common.lines import Line
from benchmarks.common.sides import Sides
from benchmarks.serving import lines
from benchmarks.serving.runs import Worker

WIDTH = 110
SWITCHES = 12
Say = Callable[[str], None]


@dataclass(frozen=True)
class Load:
    """Closed loops: a request that ends makes room for the next; lengths in tokens.

    full   twice as many in flight as fill every task's slots; the dedicated engine gets as many
    thin   as many as fill the slots of one
    """

    slots: int
    tasks: int
    prompt: int
    output: int

    @property
    def full(self) -> dict[str, int]:
        return self._order(2 * self.slots * self.tasks)

    @property
    def thin(self) -> dict[str, int]:
        return self._order(self.slots)

    def _order(self, concurrency: int) -> dict[str, int]:
        lengths = {"prompt": self.prompt, "output": self.output}
        return {"requests": 2 * concurrency, "concurrency": concurrency, **lengths}


@click.command()
@family_options(params=1e8, tasks=6)
@click.option("--slots", type=int, default=8, show_default=True, help="vLLM's --max-num-seqs.")
@click.option("--prompt", type=int, default=64, show_default=True, help="Tokens of a prompt.")
@click.option("--output", type=int, default=64, show_default=True, help="Tokens, on the average.")
@click.option("--repeat", type=int, default=5, show_default=True, help="Rounds of each side.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Write all figures here.")
def main(
    params: float,
    tasks: str,
    dtype: str,
    root: Path | None,
    base: str,
    slots: int,
    prompt: int,
    output: int,
    jobs: int,
    work: Path,
    repeat: int,
    as_json: Path | None,
    keep: bool,
) -> None:
    """Measure serving; every line is a ratio of two sides of one run."""
    say: Say = Console(stderr=True).print
    with given_family(root, base, params, tasks, dtype, jobs, work, keep) as (family, scratch):
        title = title_of(family)
        load = Load(slots, len(family.tasks), prompt, output)
        lines, found = measured(family, scratch, load, jobs, repeat, say)
    caption = (
        f"{repeat} rounds in turn; {slots} slots. Full: {load.full['concurrency']} requests in "
        f"flight on every side, thin: {slots}; {prompt} tokens in, about {output} out. {jobs} "
        "threads. Throughput: medians of the rounds' ratios. Bytes per second are the model's."
    )
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table.make(lines, title, caption))
    if as_json:
        figures = {"lines": [asdict(line) for line in lines], "found": found}
        as_json.write_text(json.dumps(figures, indent=2) + "\n")


def measured(
    family: Family, scratch: Path, load: Load, jobs: int, repeat: int, say: Say
) -> tuple[list[Line], dict[str, Any]]:
    """Pack, start the three engines, and drive them; raises SideFailed."""
    sides = Sides(family, scratch, jobs, Cache.fitting(family.nbytes))
    say("packing")
    sides.pack().run()
    names, config = list(family.tasks), json.loads((family.base / "config.json").read_text())
    options = {
        "dtype": family.torch_dtype,
        "max_model_len": 2 * (load.prompt + 2 * load.output),
        "max_num_seqs": load.slots,
        "kv_cache_memory_bytes": 1 << 30,
    }

    def worker(name: str, model: Path, tasks: list[str]) -> Worker:
        store = sides.store if tasks else None
        log = scratch / f"{name}.log"
        return stack.enter_context(Worker(name, model, store, tasks, options, jobs, log))

    with ExitStack() as stack:
        say("starting three engines")
        dedicated = worker("dedicated engine", family.tasks[names[0]], [])
        every = worker(f"{len(names)} tasks", family.base, names)
        single = worker("1 task", family.base, names[:1])
        vocabulary = config.get("text_config", config)["vocab_size"]
        for i in range(-1, repeat):  # the first round warms up
            say(f"round {i + 1} of {repeat}" if i >= 0 else "warming up")
            order = [dedicated, every, single]
            for side in order if i % 2 else reversed(order):
                side.load("full", seed=i, vocabulary=vocabulary, **load.full)
                if side is not single:
                    side.load("thin", seed=i, vocabulary=vocabulary, **load.thin)
        for side in (dedicated, every, single):
            for loads in side.loads.values():
                del loads[0]
        say("switching")
        changes = [names[i % len(names)] for i in range(SWITCHES)]
        folders = [str(family.tasks[name]) for name in changes]
        found = {
            "family_memory": every.ask("memory"),
            "dedicated_memory": dedicated.ask("memory"),
            "swap": every.ask("switch", to=changes)["seconds"],
            "reload": dedicated.ask("switch", to=folders)["seconds"],
            "cold": dedicated.ask("switch", to=folders, cold=True)["seconds"],
            "loads": {side.name: side.loads for side in (dedicated, every, single)},
            "start": {side.name: side.start for side in (dedicated, every, single)},
        }
    nbytes = size_of(weights_of(family.base))
    return lines.of(every, single, dedicated, found, nbytes), found


if __name__ == "__main__":
    main()
