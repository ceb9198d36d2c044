// The loops of `guided`: an adaptive binary coder of a mask, given how large each element's tau is.
#include "codecs/inlined.hpp"
#include "codecs/sizes.hpp"

#include <algorithm>

namespace {

using Bytes = In<uint8_t>;
constexpr uint32_t CELLS = 32, CONTEXTS = 8 * CELLS;
constexpr uint32_t START = 1 << 16; // a state before the first bit and after the last
constexpr int KNOWN = 127;          // a share learns no slower from so many bits on

// How many of the last 32 bits are ones.
struct Window {
    uint32_t before = 0, ones = 0;

    INLINED void add(uint32_t bit) {
        ones += bit - (before >> 31);
        before = before << 1 | bit;
    }
};

// What both sides learn: by cell and by the bits before, a share of ones, of 65,536, and how many bits it
// was learnt from.
class Model {
public:
    explicit Model(const Bytes &rates) {
        require(rates.size() == KNOWN + 1, "there is a rate for each count");
        std::copy_n(data(rates), KNOWN + 1, rates_);
        std::fill_n(shares_, CONTEXTS, 1 << 15);
    }
    INLINED static uint32_t context(uint8_t cell, const Window &window) {
        return cell * 8u + std::min(window.ones >> 2, 7u);
    }
    // Of 4,096; never none or all.
    INLINED uint32_t chance(uint32_t c) const {
        return uint32_t(std::clamp(int32_t(shares_[c]) >> 4, 1, 4095));
    }
    INLINED void learn(uint32_t c, uint32_t bit) {
        int32_t share = shares_[c], target = int32_t((0u - bit) & 0xFFFF);
        uint8_t seen = seen_[c];
        shares_[c] = uint16_t(share + ((target - share) >> (rates_[seen] & 31)));
        seen_[c] = uint8_t(seen + (seen < KNOWN));
    }

private:
    uint16_t shares_[CONTEXTS];
    uint8_t seen_[CONTEXTS] = {}, rates_[KNOWN + 1];
};

// How many half octaves |tau| lies below the largest of the chunk, at most 31.
void cells(In<uint32_t> tau_N, Out<uint8_t> cells_N) {
    require_same_size(tau_N, cells_N);
    auto *tau = data(tau_N);
    auto *__restrict cells = data(cells_N);
    uint32_t top = 0;
    for (size_t i = 0, n = tau_N.size(); i < n; ++i) top = std::max(top, tau[i] & 0x7FFFFFFF);
    top >>= 22;
    for (size_t i = 0, n = tau_N.size(); i < n; ++i)
        cells[i] = uint8_t(std::min(top - ((tau[i] & 0x7FFFFFFF) >> 22), CELLS - 1));
}

void require_mask(const Bytes &cells_N, size_t bytes) {
    auto *cells = data(cells_N);
    uint8_t largest = 0;
    for (size_t i = 0, n = cells_N.size(); i < n; ++i) largest = std::max(largest, cells[i]);
    require(bytes == (cells_N.size() + 7) / 8 && largest < CELLS, "a mask has other cells");
}

// The share of ones, of 4096, that each bit is coded with.
void model(Bytes cells_N, Bytes bits_P, Bytes rates, Out<uint16_t> ones_N) {
    require_mask(cells_N, bits_P.size());
    require_same_size(cells_N, ones_N);
    Model model(rates);
    Window window;
    auto *cells = data(cells_N), *bits = data(bits_P);
    auto *ones = data(ones_N);
    for (size_t i = 0, n = cells_N.size(); i < n; ++i) {
        uint32_t c = Model::context(cells[i], window), bit = (bits[i >> 3] >> (i & 7)) & 1;
        ones[i] = uint16_t(model.chance(c));
        model.learn(c, bit);
        window.add(bit);
    }
}

// Code from the last bit to the first, words from the end of `words` on downwards, one per bit at most.
// Returns where they begin; `states` are those that bits 0 and 1 are taken from.
size_t put(In<uint16_t> ones_N, Bytes bits_P, Out<uint16_t> words_N, Out<uint32_t> states) {
    require_same_size(ones_N, words_N);
    require(bits_P.size() == (ones_N.size() + 7) / 8 && states.size() == 2, "a mask has other shares");
    auto *ones = data(ones_N);
    auto *bits = data(bits_P);
    auto *words = data(words_N);
    uint32_t mine = START, other = START;
    size_t at = words_N.size();
    for (size_t i = ones_N.size(); i-- > 0;) {
        uint32_t zero = 1 - ((bits[i >> 3] >> (i & 7)) & 1), chance = ones[i];
        uint32_t base = chance & (0 - zero);
        uint32_t share = std::max(zero * 4096 + chance - 2 * base, 1u);
        words[at - 1] = uint16_t(mine); // kept only where `at` moves on; there is one word per bit left
        uint32_t many = mine >= uint64_t(share) << 20;
        at -= many;
        mine >>= many << 4;
        uint32_t whole = mine / share;
        uint32_t coded = (whole << 12) + (mine - whole * share) + base;
        mine = other;
        other = coded;
    }
    data(states)[0] = other;
    data(states)[1] = mine;
    return at;
}

// Take bits out of the two states in turn; whether both end empty after the last word. It reads no word
// behind the last. Nothing branches on a bit, which is twice as fast.
bool get(Bytes cells_N, In<uint16_t> words_W, uint32_t mine, uint32_t other, Bytes rates,
         Out<uint8_t> bits_P) {
    require_mask(cells_N, bits_P.size());
    require(words_W.size() >= 2, "there are two words more than coded");
    Model model(rates);
    Window window;
    auto *cells = data(cells_N);
    auto *bits = data(bits_P);
    auto *words = data(words_W);
    size_t at = 0, stop = words_W.size() - 1, n = cells_N.size();
    uint32_t packed = 0;
    for (size_t i = 0; i < n; ++i) {
        uint32_t c = Model::context(cells[i], window), chance = model.chance(c);
        uint32_t rest = mine & 4095, part = chance * (mine >> 12);
        uint32_t bit = rest < chance, every = 0 - bit;
        uint32_t if_one = part + rest, if_zero = mine - part - chance;
        uint32_t state = if_zero ^ ((if_zero ^ if_one) & every);
        uint32_t few = state < START;
        uint32_t word = words[at] & (0 - few);
        state = state << (few << 4) | word;
        at = std::min(at + few, stop);
        mine = other;
        other = state;
        model.learn(c, bit);
        window.add(bit);
        packed |= bit << (i & 7);
        if ((i & 7) == 7) {
            bits[i >> 3] = uint8_t(packed);
            packed = 0;
        }
    }
    if (n & 7) bits[n >> 3] = uint8_t(packed);
    return at == stop - 1 && mine == START && other == START;
}

} // namespace

void add_guided(nb::module_ &m) {
    add_loop(m, "cells", cells, "tau_N", "cells_N");
    add_loop(m, "model", model, "cells_N", "bits_P", "rates", "ones_N");
    add_loop(m, "put", put, "ones_N", "bits_P", "words_N", "states");
    add_loop(m, "get", get, "cells_N", "words", "mine", "other", "rates", "bits_P");
}
