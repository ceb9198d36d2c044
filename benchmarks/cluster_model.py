"""Compute, not measure, how long a pack of Llama 70B and 20 fine-tunes takes on 1 to 64 machines.

    python -m benchmarks.cluster_model

Units are cut as packing/parts/units.py does: tensors of all models, at most 1/256 of the work. They
are done largest first. Rates are assumptions, printed with the table.
"""

from __future__ import annotations

import heapq

TASKS, ITEM = 20, 2  # fine-tunes; bytes of a weight
CORES, CODE = 16, 100e6  # of a machine; bytes of models that a core codes in a second
NETWORK, DISK = 3.1e9, 20e9  # bytes a second of a machine; of the shared disk, for all
STORE = 0.26  # bytes of a store with rests over those of its models
RECORDS, ADD = 1.2e9, 100e6  # bytes of records that the last process reads and adds up; its rate
HIDDEN, FED, VOCABULARY, KEYS, LAYERS = 8192, 28672, 128256, 1024, 80


def tensors() -> list[int]:
    """Bytes of each tensor of Llama 70B, of all models."""
    layer = [HIDDEN**2] * 2 + [HIDDEN * KEYS] * 2 + [HIDDEN * FED] * 3 + [HIDDEN] * 2
    return [(TASKS + 1) * ITEM * n for n in [HIDDEN * VOCABULARY] * 2 + layer * LAYERS + [HIDDEN]]


def units(most: int) -> list[float]:
    """Bytes of the units, largest first: large tensors in equal pieces, small ones together."""
    found, small = list[float](), 0
    for size in tensors():
        if size > most:
            pieces = -(-size // most)
            found += [size / pieces] * pieces
        else:
            if small + size > most:
                found.append(small)
                small = 0
            small += size
    return sorted([*found, float(small)], reverse=True)


def last_done(sizes: list[float], workers: int) -> float:
    """Bytes of the worker that ends last, where each takes the next unit when it is free."""
    loads = [0.0] * workers
    for size in sizes:
        heapq.heapreplace(loads, loads[0] + size)
    return max(loads)


def main() -> None:
    total = sum(tensors())
    sizes = units(total // 256)
    print(f"{total / 1e12:.2f} TB of models, {len(sizes)} units, largest {sizes[0] / total:.2%}")
    print("machines  code  read+write  join  seal  minutes  speed-up")
    first = 0.0
    for machines in (1, 2, 4, 8, 16, 32, 64):
        rate = min(machines * NETWORK, DISK)
        code = last_done(sizes, machines * CORES) / CODE
        move = total * (1 + STORE) / rate
        join = 3 * total * STORE / rate  # parts are read, a file is written and hashed
        seal = RECORDS / ADD
        took = max(code, move) + join + seal
        first = first or took
        print(f"{machines:8} {code / 60:5.0f} {move / 60:11.0f} {join / 60:5.1f} {seal / 60:5.1f} "
              f"{took / 60:8.1f} {first / took:9.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
