"""Fields of any width, one after the other, lowest bit first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.kernels.entropy import fields


@pytest.mark.parametrize("bits", [16, 32])
@given(data=st.data())
def test_fields_come_back(bits: int, data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(0, bits), max_size=40))
    values = [data.draw(st.integers(0, (1 << width) - 1)) for width in widths]
    dtype = np.dtype(f"<u{bits // 8}")
    widths_N, values_N = np.array(widths, np.uint8), np.array(values, dtype)
    packed = fields.write(values_N, widths_N, sum(widths))
    number = bit = 0
    for width, value in zip(widths, values, strict=True):
        number, bit = number | value << bit, bit + width
    assert packed.tobytes() == number.to_bytes((bit + 7) // 8, "little")
    found_N = np.empty(values_N.size, dtype)
    fields.read(packed, widths_N, found_N)
    assert found_N.tolist() == values
