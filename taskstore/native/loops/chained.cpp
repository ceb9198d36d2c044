// The loops of `chained`: steps in the order of classes, two in a byte where they are small.
#include "codecs/sizes.hpp"
#include "codecs/floats.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace {

using U = uint16_t;
constexpr size_t BLOCK = 256;  // elements that are followed at a time
constexpr uint32_t MORE = 255;

// The lowest bit of each number of eight bytes that has all bits set; `SHARED` numbers are a byte.
template <int SHARED> uint64_t escaped(uint64_t eight) {
    eight &= eight >> 1;
    eight &= eight >> 2;
    if constexpr (SHARED == 2) return eight & 0x1111111111111111;
    eight &= eight >> 4;
    return eight & 0x0101010101010101;
}

// Call `found` with the escaped numbers of each eight bytes, and the place of the first number.
template <int SHARED, class Found>
INLINED void for_escaped(const uint8_t *bytes, size_t many, const Found &found) {
    uint64_t eight = 0;
    size_t b = 0;
    for (; b + 8 <= many; b += 8) {
        std::memcpy(&eight, bytes + b, 8);
        found(escaped<SHARED>(eight), SHARED * b);
    }
    eight = 0;
    std::memcpy(&eight, bytes + b, many - b);
    found(escaped<SHARED>(eight), SHARED * b);
}

// Put escaped steps together; false where one needs no escape, or is too large.
bool join(In<uint8_t> left_E, In<uint8_t> low_F, In<uint8_t> high_F,
                  uint32_t most, Out<U> z_E) {
    require_same_size(left_E, z_E);
    require_same_size(low_F, high_F);
    auto *left = data(left_E), *low = data(low_F), *high = data(high_F);
    auto *steps = data(z_E);
    size_t f = 0;
    bool good = true;
    for (size_t i = 0, n = left_E.size(); i < n; ++i) {
        uint32_t z = left[i];
        if (z == MORE && f < low_F.size()) {
            z = low[f] | uint32_t(high[f]) << 8;
            ++f;
            good &= z >= MORE;
        }
        good &= z + most <= 0xFFFF;
        steps[i] = U(z + most);
    }
    return good;
}

// Numbers of a stream that are escaped, `shared` in a byte.
size_t count(In<uint8_t> stream, int shared) {
    size_t total = 0;
    auto add = [&](uint64_t numbers, size_t) { total += size_t(std::popcount(numbers)); };
    if (shared == 1)
        for_escaped<1>(data(stream), stream.size(), add);
    else
        for_escaped<2>(data(stream), stream.size(), add);
    return total;
}

// From steps to weights, in place, of a block: all steps are taken as bytes first, which is
// vectorised; those that are escaped are put right after that, each by the next of `steps`.
template <int SHARED>
INLINED void follow_block(U *__restrict w, const uint8_t *bytes, size_t many, const U *&steps,
                          const U *last) {
    constexpr U MOST = SHARED == 2 ? 15 : 255;
    if constexpr (SHARED == 1)
        for (size_t i = 0; i < many; ++i) w[i] = stepped(w[i], U(bytes[i]));
    else {
        uint8_t numbers[BLOCK];
        for (size_t b = 0; b < many / 2; ++b) {
            numbers[2 * b] = bytes[b] & 15;
            numbers[2 * b + 1] = bytes[b] >> 4;
        }
        if (many % 2) numbers[many - 1] = bytes[many / 2] & 15;
        for (size_t i = 0; i < many; ++i) w[i] = stepped(w[i], U(numbers[i]));
    }
    for_escaped<SHARED>(bytes, (many + SHARED - 1) / SHARED, [&](uint64_t found, size_t first) {
        for (; found && steps < last; found &= found - 1) {
            size_t i = first + size_t(std::countr_zero(found)) / (8 / SHARED);
            if (i < many) w[i] = stepped(stepped_back(w[i], MOST), *steps++);
        }
    });
}

// From steps to weights, in place; where a byte is 255, the next of z_E is the step.
void follow(Out<U> w_N, In<uint8_t> z_N, In<U> z_E) {
    require_same_size(w_N, z_N);
    auto *w = data(w_N);
    auto *z = data(z_N);
    auto *steps = data(z_E), *last = steps + z_E.size();
    for (size_t start = 0, n = w_N.size(); start < n; start += BLOCK)
        follow_block<1>(w + start, z + start, std::min(BLOCK, n - start), steps, last);
}

// The same where each byte is two steps, of streams whose steps end at `ends`, and 15 is escaped; false
// where a stream has a step after its last. Checks that streams and ends fit.
bool follow_pairs(Out<U> w_N, In<uint8_t> pairs_P, In<int64_t> ends, In<U> z_E) {
    auto *w = data(w_N);
    auto *pairs = data(pairs_P), *end_of_pairs = pairs + pairs_P.size();
    auto *ends_of = data(ends);
    auto *steps = data(z_E), *last = steps + z_E.size();
    size_t start = 0;
    bool good = true;
    for (size_t c = 0, n = ends.size(); c < n; ++c) {
        auto end = size_t(ends_of[c]);
        require(start <= end && end <= w_N.size(), "ends do not follow each other");
        size_t size = (end - start + 1) / 2;
        require(size_t(end_of_pairs - pairs) >= size, "streams of pairs are too short");
        for (size_t at = start; at < end; at += BLOCK)
            follow_block<2>(w + at, pairs + (at - start) / 2, std::min(BLOCK, end - at), steps, last);
        pairs += size;
        if ((end - start) % 2) good &= pairs[-1] < 16;
        start = end;
    }
    return good;
}

} // namespace

void add_chained(nb::module_ &m) {
    add_loop(m, "join", join, "left_E", "low_F", "high_F", "most", "z_E");
    add_loop(m, "count", count, "stream", "shared");
    add_loop(m, "follow", follow, "w_N", "z_N", "z_E");
    add_loop(m, "follow_pairs", follow_pairs, "w_N", "pairs_P", "ends", "z_E");
}
