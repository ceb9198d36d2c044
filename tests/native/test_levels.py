"""The level of the processor that a process takes, and which arrays a loop takes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from taskstore.kernels import cpu
from taskstore.native import classes, deltas, levels, strides
from taskstore.native import cpu as loops
from tests.support.native import at_level


def chosen_by(variable: str) -> subprocess.CompletedProcess[str]:
    code = "from taskstore.native import cpu; print(cpu.__name__)"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, levels.VARIABLE: variable},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("level", levels.available())
def test_the_variable_chooses_a_level(level: str) -> None:
    assert chosen_by(level).stdout.strip() == f"taskstore.native.loops_{level}.cpu"


def test_the_best_is_taken_and_an_unknown_level_is_refused() -> None:
    best = levels.available()[-1]
    assert chosen_by("").stdout.strip() == f"taskstore.native.loops_{best}.cpu"
    refused = chosen_by("v9")
    assert f"TASKSTORE_CPU=v9: this processor has {', '.join(levels.available())}" in refused.stderr


@pytest.mark.parametrize("level", levels.available())
def test_tests_reach_each_level(level: str) -> None:
    with at_level(level):
        assert vars(cpu)["loops"] is levels.loops(level).cpu
    assert vars(cpu)["loops"] is levels.loops(levels.chosen()).cpu


def test_arrays_are_taken_as_they_are_or_refused() -> None:
    mask, w = np.zeros(2, np.uint8), np.arange(16, dtype=np.uint16)
    fixed = w.copy()
    fixed.flags.writeable = False
    out = np.empty_like(w)
    loops.select(mask, fixed, w, out)
    assert (out == w).all()
    odd = np.zeros(33, np.uint8)[1:].view(np.uint16)
    for wrong, error in (
        ((mask, w, w, fixed), TypeError),  # cannot be written
        ((mask, w.astype(np.int16), w, out), TypeError),
        ((mask, np.zeros(32, np.uint16)[::2], w, out), TypeError),  # would be copied
        ((mask[:1], w, w, out), ValueError),
        ((mask, w[:8], w, out), ValueError),
        ((mask, odd, w, out), ValueError),
    ):
        with pytest.raises(error):
            loops.select(*wrong)


def test_decoders_refuse_fields_without_a_width() -> None:
    """Their buffers are for fields of the codecs' widths; Python gives no others."""
    w, order = np.zeros(8, np.uint16), (np.zeros(256, np.uint8), np.zeros(1, np.uint64))
    none, out = np.zeros(0, np.uint8), np.zeros(8, np.uint16)
    with pytest.raises(ValueError, match="2 or 3 bits"):
        strides.decode(w, 7, 0, 0, *order, np.zeros(8, np.uint8), none, out)
    shares, coded = np.full((1, 256), 16, np.uint16), np.zeros(4096, np.uint8)
    context = np.zeros(256, np.uint8)
    with pytest.raises(ValueError, match="no width"):
        deltas.decode(w, 0, 7, 1, 0, none, none, 0, context, shares, coded, none, out)


def test_no_place_of_a_class_lies_outside() -> None:
    """Weights that change between the count of their sizes and the coding give such places."""
    w, order = np.arange(8, dtype=np.uint16), (np.zeros(256, np.uint8), np.array([20], np.uint64))
    around = np.full(64, 7, np.uint8)
    strides.encode(w, w, 7, 0, 3, *order, around[:8], np.zeros(64, np.uint32))
    assert (around[8:] == 7).all()
    at, beside = np.full(64, 7, np.uint32), np.full(64, 7, np.uint16)
    classes.arrange(w, 7, *order, w, at[:8], beside[:8])
    assert (at[8:] == 7).all() and (beside[8:] == 7).all()
