// The loops of `chained`: steps in the order of classes, two in a byte where they are small.
#include "codecs/sizes.hpp"
#include "codecs/floats.hpp"

#include <algorithm>

namespace {

using U = uint16_t;
constexpr size_t BLOCK = 256;  // elements among which escapes are looked for
constexpr uint32_t MORE = 255;

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

// Numbers of streams that are escaped, `shared` in a byte.
size_t count(In<uint8_t> streams, int shared) {
    size_t total = 0;
    auto *bytes = data(streams);
    for (size_t i = 0, n = streams.size(); i < n; ++i)
        total += shared == 1 ? bytes[i] == 255 : ((bytes[i] & 15) == 15) + (bytes[i] >= 240);
    return total;
}

// Two numbers of each byte, of streams whose numbers end at `ends`; false where one has a number after
// its last. Checks that streams and ends fit.
bool halve(In<uint8_t> pairs_P, In<int64_t> ends, Out<uint8_t> numbers_N) {
    auto *pairs = data(pairs_P), *last = pairs + pairs_P.size();
    auto *numbers = data(numbers_N);
    auto *ends_of = data(ends);
    size_t start = 0;
    bool good = true;
    for (size_t c = 0, n = ends.size(); c < n; ++c) {
        auto end = size_t(ends_of[c]);
        require(start <= end && end <= numbers_N.size(), "ends do not follow each other");
        size_t whole = (end - start) / 2;
        require(size_t(last - pairs) >= whole + (end - start) % 2, "streams of pairs are too short");
        auto *__restrict two = numbers + start;
        for (size_t i = 0; i < whole; ++i) {
            two[2 * i] = pairs[i] & 15;
            two[2 * i + 1] = pairs[i] >> 4;
        }
        pairs += whole;
        if ((end - start) % 2) {
            good &= *pairs < 16;
            numbers[end - 1] = *pairs++ & 15;
        }
        start = end;
    }
    return good;
}

// From steps to weights, in place; where a byte is `most`, the next of z_E is the step. All are taken
// as bytes first, which is vectorised; the few that are escaped once more.
void follow(Out<U> w_N, In<uint8_t> z_N, uint8_t most, In<U> z_E) {
    require_same_size(w_N, z_N);
    auto *steps = data(z_E);
    size_t e = 0;
    for (size_t start = 0; start < w_N.size(); start += BLOCK) {
        size_t many = std::min(BLOCK, w_N.size() - start);
        auto *__restrict w = data(w_N) + start;
        auto *z = data(z_N) + start;
        uint8_t found = 0;
        for (size_t i = 0; i < many; ++i) {
            found |= z[i] == most;
            w[i] = stepped(w[i], U(z[i]));
        }
        for (size_t i = 0; found && i < many; ++i)
            if (z[i] == most && e < z_E.size())
                w[i] = stepped(stepped_back(w[i], U(most)), steps[e++]);
    }
}

} // namespace

void add_chained(nb::module_ &m) {
    add_loop(m, "join", join, "left_E", "low_F", "high_F", "most", "z_E");
    add_loop(m, "count", count, "streams", "shared");
    add_loop(m, "halve", halve, "pairs", "ends", "numbers_N");
    add_loop(m, "follow", follow, "w_N", "z_N", "most", "z_E");
}
