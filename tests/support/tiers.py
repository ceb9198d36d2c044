"""Manifests, weights and files of one task, as tiers read and write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from taskstore.format.container import ContainerReader, ContainerWriter
from taskstore.format.dtypes import ITEMSIZE, plain_codec
from taskstore.format.manifest import Base, Manifest, Merge, Task, TaskTensor, Tensor
from taskstore.format.rules.since import CODECS_OF_TIERS
from taskstore.format.section import Layout, SectionReader, SectionWriter
from taskstore.format.tiers import Bits
from taskstore.kernels import floats
from taskstore.locations.files import LocalFolder

CHUNK = 256
TASK = "one"
SHAPES: Mapping[str, tuple[int, ...]] = {
    "matrix": (33, 70),
    "narrow": (100, 3),
    "filter": (8, 3, 5, 5),
    "vector": (700,),
    "scalar": (),
    "none": (0, 9),
}
LEVELS = ("speed", "archive")
Streams = list[list[bytes]]  # by chunk


def manifest_of(
    tiers: tuple[str, ...],
    dtype: str,
    own: str | None = None,
    level: str = "speed",
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> Manifest:
    """A base and one task, whose tensors all have these tiers; nothing but what tiers read."""
    codecs = {t: CODECS_OF_TIERS[t] for t in tiers if t in CODECS_OF_TIERS}
    multitask = "ulp" if "mask" in tiers else None
    digest, highest = "0" * 64, cast(Literal["mask", "rest", "exact"], tiers[-1])
    return Manifest(
        format="taskstore",
        version=3,
        writer="tests",
        chunk=CHUNK,
        base=Base(
            name="base", carried=True, source=None, revision=None, original_bytes=0, assets={}
        ),
        merge=Merge(method="sum", options={}),
        tensors={
            name: Tensor(
                dtype=dtype,
                shape=list(shape),
                codec=plain_codec(dtype),
                multitask=multitask,
                alias=None,
                blake3=digest,
            )
            for name, shape in shapes.items()
        },
        tasks={
            TASK: Task(
                lam=0.4,
                origin="tests",
                source=None,
                revision=None,
                original_bytes=0,
                assets={},
                tensors={
                    name: TaskTensor(kind=highest, dtype=own, blake3=digest) for name in shapes
                },
                tiers=cast(Any, list(tiers)),
                bits=2.0 if "rest" in tiers else None,
                codecs=codecs if level == "archive" and codecs else None,
            )
        },
        assets={},
        files={},
    )


def weights(n: int, dtype: str, seed: int) -> Bits:
    values_N = np.random.default_rng(seed).standard_normal(n) * 0.02
    return floats.from_float32(values_N.astype(np.float32), dtype)


def moved(weights_N: Bits, dtype: str, seed: int) -> Bits:
    """A fine-tune: a heavy-tailed step away."""
    noise_N = np.random.default_rng(seed).standard_normal(weights_N.size)
    tau_N = (0.004 * noise_N * np.abs(noise_N)).astype(np.float32)
    return floats.from_float32(floats.to_float32(weights_N, dtype) + tau_N, dtype)


def any_bits(n: int, dtype: str, seed: int) -> Bits:
    """Any bit patterns: NaNs, infinities and subnormals among them."""
    size = ITEMSIZE[dtype]
    raw: Bits = np.random.default_rng(seed).integers(0, 256, n * size, np.uint8).view(f"<u{size}")
    return raw


def parts(n: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


@contextmanager
def sections(
    folder: Path, files: Mapping[str, tuple[Mapping[str, Layout], Mapping[str, Streams]]]
) -> Iterator[Callable[[str, str], SectionReader]]:
    """Write containers, by stem, and read their sections back, by stem and tensor."""
    with ExitStack() as stack:
        opened: dict[str, ContainerReader] = {}
        for i, (stem, (layouts, coded)) in enumerate(files.items()):
            path = folder / f"{i}.safetensors"
            bound = sum(layout.bound for layout in layouts.values())
            with closing(ContainerWriter(path, list(layouts), bound)) as file:
                for name, layout in layouts.items():
                    writer = SectionWriter(file, name, layout)
                    for streams in coded[name]:
                        writer.add(streams)
                    writer.finish()
                file.finish()
            opened[stem] = ContainerReader(LocalFolder(folder), path.name, path.stat().st_size)
            stack.callback(opened[stem].close)
        yield lambda stem, name: SectionReader(opened[stem], name, files[stem][0][name])
