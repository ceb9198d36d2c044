// Loops of taskstore/kernels/factored/range_coder.py: factors, and levels that are few.
// E = levels that are not 0; M = rows, N = columns and R = rank of a factored matrix.
#include "codecs/range_coder.hpp"
#include "codecs/sizes.hpp"

namespace {

constexpr int CLASSES = 16;        // of a factor's step: contexts of its numbers
constexpr uint32_t LARGEST = 8190; // level, less one
constexpr int MAX_CODE = 63;

// Levels that are not 0, folded by zigzag, and where they are, in order; returns bytes written.
size_t put_few(In<uint32_t> where_E, In<uint16_t> z_E, Out<uint8_t> out) {
    require_same_size(where_E, z_E);
    auto *where = data(where_E);
    auto *z = data(z_E);
    RangeEncoder coder(data(out), out.size());
    Counts gaps, sizes;
    uint32_t after = 0;
    for (size_t i = 0, n = where_E.size(); i < n; ++i) {
        require(where[i] >= after && where[i] - after <= LARGEST_NUMBER && z[i], "levels are not in order");
        coder.size(gaps, where[i] - after);
        after = where[i] + 1;
        coder.size(sizes, uint32_t(z[i] - 1) >> 1);
        coder.plain(z[i] & 1, 1);
    }
    size_t used = coder.end();
    require(used <= out.size(), "levels have too little room");
    return used;
}

// The same back; false where one is not among `n` elements, or too large.
bool few(In<uint8_t> stream, uint64_t n, Out<uint32_t> where_E, Out<uint16_t> z_E) {
    require_same_size(where_E, z_E);
    auto *where = data(where_E);
    auto *z = data(z_E);
    RangeDecoder coder(data(stream), stream.size());
    Counts gaps, sizes;
    uint64_t at = 0;
    for (size_t i = 0, count = where_E.size(); i < count; ++i, ++at) {
        at += coder.size(gaps);
        uint32_t size = coder.size(sizes);
        if (at >= n || size > LARGEST) return false;
        where[i] = uint32_t(at);
        z[i] = uint16_t(2 * (size + 1) - coder.plain(1));
    }
    return true;
}

// Levels into bytes of four symbols, which are 0; what is too large for one has 3.
void place(In<uint32_t> where_E, In<uint16_t> z_E, Out<uint8_t> symbols) {
    require_same_size(where_E, z_E);
    auto *where = data(where_E);
    auto *z = data(z_E);
    auto *bytes = data(symbols);
    for (size_t i = 0, n = where_E.size(); i < n; ++i) {
        require(where[i] / 4 < symbols.size(), "a level stands past the end of its chunk");
        bytes[where[i] / 4] |= uint8_t(std::min<uint16_t>(z[i], 3) << 2 * (where[i] & 3));
    }
}

// Codes of the rows' scales; of each component its shift and the classes, and its numbers.
size_t put_factors(In<uint8_t> scales_M, In2<uint8_t> heads_R3, In2<int8_t> left_RM,
                   In2<int8_t> right_RN, Out<uint8_t> out) {
    size_t rank = heads_R3.shape(0);
    require(heads_R3.shape(1) == 3 && left_RM.shape(0) == rank && right_RN.shape(0) == rank,
            "factors have several ranks");
    auto *heads = data(heads_R3);
    require(std::all_of(heads, heads + 3 * rank, [](uint8_t x) { return x < CLASSES; }),
            "a component has an unknown class");
    RangeEncoder coder(data(out), out.size());
    std::vector<Counts> counts(CLASSES + 1);
    int last = 0;
    for (size_t i = 0, n = scales_M.size(); i < n; ++i) {
        coder.signed_(counts[CLASSES], data(scales_M)[i] - last);
        last = data(scales_M)[i];
    }
    auto put = [&](const In2<int8_t> &factor, size_t r, Counts &counts) {
        auto *numbers = data(factor) + r * factor.shape(1);
        for (size_t i = 0; i < factor.shape(1); ++i) coder.signed_(counts, numbers[i]);
    };
    for (size_t r = 0; r < rank; ++r) {
        for (int k = 0; k < 3; ++k) coder.plain(heads[3 * r + k], 4);
        put(left_RM, r, counts[heads[3 * r + 1]]);
        put(right_RN, r, counts[heads[3 * r + 2]]);
    }
    size_t used = coder.end();
    require(used <= out.size(), "factors have too little room");
    return used;
}

// The same back; whether every number has its place.
bool factors(In<uint8_t> stream, Out<uint8_t> scales_M, Out2<uint8_t> heads_R3, Out2<int8_t> left_RM,
             Out2<int8_t> right_RN) {
    size_t rank = heads_R3.shape(0);
    require(heads_R3.shape(1) == 3 && left_RM.shape(0) == rank && right_RN.shape(0) == rank,
            "factors have several ranks");
    auto *heads = data(heads_R3);
    auto *scales = data(scales_M);
    RangeDecoder coder(data(stream), stream.size());
    std::vector<Counts> counts(CLASSES + 1);
    int last = 0;
    for (size_t i = 0, n = scales_M.size(); i < n; ++i) {
        last += coder.signed_(counts[CLASSES]);
        if (last < 0 || last > MAX_CODE) return false;
        scales[i] = uint8_t(last);
    }
    bool fits = true;
    auto take = [&](const Out2<int8_t> &factor, size_t r, Counts &counts) {
        auto *numbers = data(factor) + r * factor.shape(1);
        for (size_t i = 0; i < factor.shape(1); ++i) {
            int value = coder.signed_(counts);
            fits &= std::abs(value) < 128;
            numbers[i] = int8_t(value);
        }
    };
    for (size_t r = 0; r < rank; ++r) {
        for (int k = 0; k < 3; ++k) heads[3 * r + k] = uint8_t(coder.plain(4));
        take(left_RM, r, counts[heads[3 * r + 1]]);
        take(right_RN, r, counts[heads[3 * r + 2]]);
    }
    return fits;
}

} // namespace

void add_range_coder(nb::module_ &m) {
    add_loop(m, "put_few", put_few, "where_E", "z_E", "out");
    add_loop(m, "few", few, "stream", "n", "where_E", "z_E");
    add_loop(m, "place", place, "where_E", "z_E", "symbols");
    add_loop(m, "put_factors", put_factors, "scales_M", "heads_R3", "left_RM", "right_RN", "out");
    add_loop(m, "factors", factors, "stream", "scales_M", "heads_R3", "left_RM", "right_RN");
}
