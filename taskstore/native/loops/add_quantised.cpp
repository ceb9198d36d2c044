// The loop of taskstore/kernels/add_quantised.py: weights and a quantised vector, BLOCK elements at a time.
#include <algorithm>
#include <cstring>

#include "arrays.hpp"
#include "codecs/add_rounded.hpp"
#include "codecs/look_up.hpp"
#include "codecs/low_rank.hpp"
#include "rows.hpp"

namespace {

const int64_t BLOCK = 1536, MOST = 42 * BLOCK; // whole bytes of every radix
const int64_t MANY = 32;                       // components

template <class U>
void add(In<uint8_t> symbols, In2<float> table_256K, In<uint32_t> where_E, In<float> points_E, In<float> steps_R,
         int64_t columns, int64_t first, Factor left_RM, Factor right_RN, In<uint8_t> shifts_R,
         In<float> scales_M, In<U> below_N, Out<U> w_N) {
    int64_t n = length(w_N), packed = length(table_256K, 1), escapes = length(where_E), found = 0;
    require(length(below_N) == n && length(points_E) == escapes, "vectors differ in size");
    require(length(table_256K) == 256 && packed >= 1 && packed <= 4, "not a row of 1 to 4 values per byte");
    require(length(symbols) == (n + packed - 1) / packed, "the bytes do not hold as many symbols");
    Rows rows(columns, first, n, length(steps_R));
    LowRank part(left_RM, right_RN, shifts_R, scales_M);
    require(part.empty() || static_cast<uint64_t>(first + n) <= part.size(), "the part of low rank is too small");
    const uint8_t *symbol = data(symbols);
    const float *table = data(table_256K), *steps = data(steps_R), *points = data(points_E);
    const uint32_t *where = data(where_E);
    const U *below = data(below_N);
    U *w = data(w_N);
    // a part of many components takes several rows at a time; fewer cost less than what leaves the nearest cache
    int64_t block = length(left_RM) < MANY ? BLOCK : std::clamp(12 * columns, BLOCK, MOST);
    std::vector<float> room(std::min(block, n) + 4);
    float *values = room.data();
    alignas(64) float padded[256 * 4] = {}; // three values are copied as four
    for (int64_t b = 0; packed == 3 && b < 256; ++b) std::copy_n(table + 3 * b, 3, padded + 4 * b);
    for (int64_t start = 0; start < n; start += block) {
        int64_t stop = std::min(start + block, n);
        const uint8_t *from = symbol + start / packed;
        if (packed == 4) look_up<4, 4>(from, table, stop - start, values);
        else if (packed == 3) look_up<3, 4>(from, padded, stop - start, values);
        else if (packed == 2) look_up<2, 2>(from, table, stop - start, values);
        else look_up<1, 1>(from, table, stop - start, values);
        for (; found < escapes && where[found] < stop; ++found) {
            require(where[found] >= start, "escapes are out of order");
            values[where[found] - start] = points[found];
        }
        for (int64_t r = rows.of(start); r < length(steps_R) && rows.start(r) < stop; ++r) {
            float step = steps[r];
            for (int64_t i = std::max(rows.start(r), start), end = std::min(rows.stop(r), stop); i < end; ++i)
                values[i - start] *= step;
        }
        if (!part.empty()) part.add(first + start, values, stop - start);
        add_rounded(values, below + start, w + start, stop - start);
    }
}

template <class U> void add_to(nb::module_ &m) {
    add_loop(m, "add", add<U>, "symbols", "table_256K", "where_E", "points_E", "steps_R", "columns", "first",
             "left_RM", "right_RN", "shifts_R", "scales_M", "below_N", "w_N");
}

}  // namespace

void add_add_quantised(nb::module_ &m) {
    add_to<uint16_t>(m);
    add_to<uint32_t>(m);
}
