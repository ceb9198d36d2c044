// The loop of taskstore/kernels/factored/low_rank.py.
#include "codecs/low_rank.hpp"

namespace {

// Elements [first, first + N) of the part, in C order, are added to as many values.
void add(Factor left_RM, Factor right_RN, In<uint8_t> shifts_R, In<float> scales_M, size_t first,
         Out<float> values_N) {
    LowRank part(left_RM, right_RN, shifts_R, scales_M);
    require(first + values_N.size() <= part.size(), "there are fewer elements");
    part.add(first, data(values_N), values_N.size());
}

} // namespace

void add_low_rank(nb::module_ &m) {
    add_loop(m, "add", add, "left_RM", "right_RN", "shifts_R", "scales_M", "first", "values_N");
}
