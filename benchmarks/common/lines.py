"""What was measured, as lines of two sides and their ratio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common.family import size_of, weights_of
from benchmarks.common.measure import Run, Side

GIB = 1 << 30
NOISE = 0.1  # of a start-up: what is left of small merges says nothing


@dataclass(frozen=True)
class Target:
    """What a line should show, and whether it did."""

    text: str
    met: bool


@dataclass(frozen=True)
class Cell:
    """One side: only what was measured of it. `rate` is bytes per second."""

    name: str
    seconds: float | None = None
    rate: float | None = None
    nbytes: int | None = None
    peak: int | None = None  # memory
    note: str = ""


@dataclass(frozen=True)
class Line:
    what: str
    ours: Cell
    other: Cell
    ratio: float
    unit: str
    target: Target | None = None


@dataclass
class Lines:
    """`inputs` is the family's size in bytes, `model` that of the task that is unpacked."""

    inputs: int
    model: int
    found: list[Line] = field(default_factory=list)

    def pack(self, pack: Side, read: Side, mergekit: Side | None, startup: Side) -> None:
        whole, work = pack.median(seconds_of), pack.median(work_of)
        if mergekit:
            theirs = mergekit.median(seconds_of)
            self._faster(
                "pack, whole process", pack, whole, mergekit, theirs, judged=True, cpu=True
            )
            theirs -= startup.median(seconds_of)
            if theirs > NOISE * startup.median(seconds_of):
                self._faster("pack, less start-up", pack, work, mergekit, theirs, judged=True)
        self._faster("pack, less start-up", pack, work, read, read.median(work_of), judged=False)

    def _faster(
        self,
        what: str,
        a: Side,
        seconds: float,
        b: Side,
        theirs: float,
        *,
        judged: bool,
        cpu: bool = False,
    ) -> None:
        ratio = theirs / seconds
        notes = [f"{side.median(_cpu):.2f} s of the cores" if cpu else "" for side in (a, b)]
        cells = (
            _timed(a, seconds, self.inputs, note=notes[0]),
            _timed(b, theirs, self.inputs, note=notes[1]),
        )
        target = Target("> 1", ratio > 1) if judged else None
        self.found.append(Line(what, *cells, ratio, "as fast", target))

    def unpack(self, unpack: Side, flushed: Side, quick: Side) -> None:
        for what, seconds, copy, judged in (
            ("unpack, less start-up", unpack.median(work_of), flushed, True),
            ("unpack, less start-up", unpack.median(work_of), quick, False),
            ("unpack, whole process", unpack.median(seconds_of), flushed, False),
        ):
            theirs = copy.median(work_of)
            ratio = seconds / theirs
            cells = (_timed(unpack, seconds, self.model), _timed(copy, theirs, self.model))
            target = Target("<= 2", ratio <= 2) if judged else None
            self.found.append(Line(what, *cells, ratio, "the time", target))

    def measuring(self, side: Side) -> None:
        """Processor time of one process that packs with and without measuring what is kept."""
        on, off = (side.runs[-1].says[key] for key in ("with", "without"))
        cells = (
            _timed(side, on, self.inputs, note="seconds of the cores"),
            Cell("the same, nothing measured", off, self.inputs / off),
        )
        target = Target("< 1.03", on / off < 1.03)
        self.found.append(Line("measuring what is kept", *cells, on / off, "the time", target))

    def memory(self, pack: Side, unpack: Side, mergekit: Side | None) -> None:
        """Peaks: the highest of all runs."""
        model = Cell("one model's size", nbytes=self.model)
        for side, most in ((pack, 2), (unpack, 1)):
            above = _highest(side, _above)
            ours = Cell("above the imports", peak=above)
            target = Target(f"< {most} GiB", above < most * GIB)
            what = f"memory of {side.name.split()[-1]}"
            if side is pack and mergekit:
                peak = _highest(mergekit, _peak)
                note = f"of it anonymous {_highest(mergekit, _anonymous) / 2**20:,.0f} MiB"
                cell = Cell(f"{mergekit.name}, imports too", peak=peak, note=note)
                self.found.append(Line(what, ours, cell, above / peak, "the bytes", target))
            else:
                ratio = above / self.model
                self.found.append(Line(what, ours, model, ratio, "the bytes", target))

    def originals(self, pack: Side, store: int) -> None:
        self._smaller(pack, store, Cell("the models as they are", nbytes=self.inputs))

    def tar(self, pack: Side, store: int, tar: Side) -> None:
        nbytes = int(tar.runs[-1].says["bytes"])
        self._smaller(pack, store, _timed(tar, tar.median(work_of), self.inputs, nbytes))

    def zipnn(self, pack: Side, store: int, zipnn: Side, folders: list[Path], tasks: int) -> None:
        """Where only some models went through, the other tasks count as much as those that did."""
        files = zipnn.runs[-1].says["files"]
        coded = [sum(files[str(path)] for path in weights_of(folder)) for folder in folders]
        given = size_of([path for folder in folders for path in weights_of(folder)])
        seconds, sample = zipnn.median(work_of), coded[1:]
        note = "weights only"
        if len(sample) < tasks:
            note = f"estimated from the base and {len(sample)} tasks"
            seconds *= self.inputs / given
        nbytes = coded[0] + round(sum(sample) / len(sample) * tasks)
        self._smaller(pack, store, _timed(zipnn, seconds, self.inputs, nbytes, note))

    def _smaller(self, pack: Side, store: int, other: Cell) -> None:
        if not other.nbytes:
            raise ValueError(f"{other.name} wrote nothing")
        ours = _timed(pack, pack.median(work_of), self.inputs, store, "all files of the store")
        self.found.append(Line("size", ours, other, store / other.nbytes, "the bytes"))


def _timed(
    side: Side, seconds: float, moved: int, nbytes: int | None = None, note: str = ""
) -> Cell:
    return Cell(side.name, seconds, moved / seconds, nbytes, _highest(side, _peak), note)


def _highest(side: Side, of: Callable[[Run], int]) -> int:
    return max(of(run) for run in side.runs)


def seconds_of(run: Run) -> float:
    return run.seconds


def work_of(run: Run) -> float:
    return run.work


def _cpu(run: Run) -> float:
    return run.cpu


def _peak(run: Run) -> int:
    return run.peak


def _anonymous(run: Run) -> int:
    return run.anonymous


def _above(run: Run) -> int:
    return int(run.says["above_imports"])
