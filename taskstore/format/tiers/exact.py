"""Tier exact: a fine-tune's bits, coded against what is below."""

from __future__ import annotations

from taskstore.format.dtypes import ITEMSIZE, MASKED, numel
from taskstore.format.manifest import Manifest, Task
from taskstore.format.rules.since import CODECS_OF_TIERS
from taskstore.format.section import Layout, encode
from taskstore.format.tiers.base import Bits, BlockSpec, Spot, Step, TierFile, tensors_with
from taskstore.kernels import cpu


class Exact(TierFile):
    name = "exact"

    def layouts(self, manifest: Manifest, task: Task) -> dict[str, Layout]:
        """List the base's rows of its tensors; further rows are private."""
        layouts = {}
        for name, base in tensors_with(manifest, task, "exact").items():
            dtype = task.tensors[name].dtype or base.dtype
            usual = usual_codec(dtype)
            codec = task.codec("exact", usual) if dtype in MASKED else usual
            layouts[name] = Layout(codec, numel(base.shape), ITEMSIZE[dtype], manifest.chunk)
        return layouts

    def step(self, spot: Spot) -> Step:
        exact = spot.section(self.stem(spot.folder))
        return lambda k, below_N, dtype: exact.chunk(k, cpu.cast(below_N, dtype, spot.dtype))

    def encode(self, theta_N: Bits, below_N: Bits, spec: BlockSpec) -> tuple[list[bytes], Bits]:
        archive = spec.archive and spec.dtype in MASKED
        codec = CODECS_OF_TIERS["exact"] if archive else usual_codec(spec.dtype)
        return encode(codec, theta_N, below_N), theta_N


def usual_codec(dtype: str) -> str:
    """Return the codec where none is recorded; it is given the weights below."""
    return "steps" if dtype in ("BF16", "F16") else "ulp"
