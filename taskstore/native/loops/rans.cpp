// Loops of taskstore/kernels/entropy/rans.py. N = elements, C = contexts, S = 256 bytes, E = 256 scales.
#include "codecs/rans.hpp"
#include "codecs/sizes.hpp"

#include <vector>

namespace {

using Bytes = In<uint8_t>;

template <class Shares> void require_contexts(const Bytes &contexts_E, const Shares &shares_CS) {
    auto *contexts = data(contexts_E);
    require(contexts_E.size() == 256 && shares_CS.shape(1) == 256 &&
                *std::max_element(contexts, contexts + 256) < shares_CS.shape(0),
            "contexts are not those of the shares");
}

// How often each byte occurs in each context; adds to `counts_CS`.
void count(Bytes bytes_N, Bytes scales_N, Bytes contexts_E, Out2<int64_t> counts_CS) {
    require_same_size(bytes_N, scales_N);
    require_contexts(contexts_E, counts_CS);
    auto *bytes = data(bytes_N), *scales = data(scales_N), *contexts = data(contexts_E);
    auto *counts = data(counts_CS);
    for (size_t i = 0, n = bytes_N.size(); i < n; ++i) ++counts[contexts[scales[i]] * 256 + bytes[i]];
}

// Code from the last element to the first, words from the end of `words` on downwards; returns where
// they begin. `words` has one more than there are elements, since an element has one word at most.
size_t put(Bytes bytes_N, Bytes scales_N, Bytes contexts_E, In2<uint16_t> shares_CS,
           Out<uint32_t> states, Out<uint16_t> words) {
    require_same_size(bytes_N, scales_N);
    require_contexts(contexts_E, shares_CS);
    require(states.size() == LANES && words.size() == bytes_N.size() + 1, "too little room for words");
    struct Symbol {
        uint16_t share, begin;
    };
    size_t contexts_count = shares_CS.shape(0);
    std::vector<Symbol> symbols(contexts_count * 256);
    auto *shares = data(shares_CS);
    for (size_t c = 0; c < contexts_count; ++c)
        for (uint32_t s = 0, begin = 0; s < 256; ++s) {
            symbols[c * 256 + s] = {shares[c * 256 + s], uint16_t(begin)};
            begin += shares[c * 256 + s];
        }
    auto *bytes = data(bytes_N), *scales = data(scales_N), *contexts = data(contexts_E);
    auto *to = data(words);
    uint32_t x[LANES];
    std::fill_n(x, LANES, START);
    size_t at = bytes_N.size();
    auto one = [&](size_t i, uint32_t &x) {
        Symbol symbol = symbols[contexts[scales[i]] * 256 + bytes[i]];
        uint32_t share = std::max<uint32_t>(symbol.share, 1); // a byte without one is a caller's mistake
        to[at] = uint16_t(x); // kept only where `at` moves on
        bool many = x >= uint64_t(share) << (32 - SHARE_BITS);
        at -= many;
        x = many ? x >> 16 : x;
        uint32_t whole = x / share;
        x = (whole << SHARE_BITS) + (x - whole * share) + symbol.begin;
    };
    size_t i = bytes_N.size();
    while (i % LANES) --i, one(i, x[i % LANES]);
    while (i) {
        i -= LANES;
#pragma GCC unroll 8
        for (int lane = LANES - 1; lane >= 0; --lane) one(i + lane, x[lane]);
    }
    std::copy_n(x, LANES, data(states));
    return at + 1;
}

// Take bytes out of the states; false where that does not end empty after the last word, or shares do
// not add up. `deltas.cpp` decodes block by block; this is its decoder by itself, for the tests.
bool take(In<uint32_t> states, In<uint16_t> words, Bytes scales_N, Bytes contexts_E,
          In2<uint16_t> shares_CS, Out<uint8_t> bytes_N) {
    require_same_size(bytes_N, scales_N);
    require_contexts(contexts_E, shares_CS);
    require(states.size() == LANES, "there are eight states");
    std::vector<uint32_t> table(shares_CS.shape(0) * WHOLE);
    for (size_t c = 0; c < shares_CS.shape(0); ++c)
        if (!spread(data(shares_CS) + 256 * c, table.data() + WHOLE * c)) return false;
    uint32_t rows[256];
    for (int e = 0; e < 256; ++e) rows[e] = data(contexts_E)[e] * WHOLE;
    std::vector<uint16_t> room(words.size() + RansDecoder::ROOM);
    std::copy_n(data(words), words.size(), room.data());
    RansDecoder decoder(data(states), room.data(), words.size());
    decoder.take(scales_N.size(), data(scales_N), rows, table.data(), data(bytes_N));
    return decoder.ended();
}

} // namespace

void add_rans(nb::module_ &m) {
    add_loop(m, "count", count, "bytes_N", "scales_N", "contexts_E", "counts_CS");
    add_loop(m, "put", put, "bytes_N", "scales_N", "contexts_E", "shares_CS", "states", "words");
    add_loop(m, "take", take, "states", "words", "scales_N", "contexts_E", "shares_CS", "bytes_N");
}
