// How often each size of a weight occurs, and elements in the order of their classes (`chained`).
#include "codecs/classes.hpp"

namespace {

// How often each s occurs; eight are counted in turn, so that none waits for the one before.
template <class U> void count_sizes(In<U> w0_N, int shift, Out<int64_t> by_size) {
    constexpr size_t TURNS = 8;
    require_shift<U>(shift);
    require(by_size.size() == SIZES, "there are 256 sizes");
    uint32_t counts[TURNS][SIZES] = {};
    auto *w0 = data(w0_N);
    size_t i = 0, n = w0_N.size();
    for (; i + TURNS <= n; i += TURNS)
        for (size_t t = 0; t < TURNS; ++t) ++counts[t][size_of(w0[i + t], shift)];
    for (; i < n; ++i) ++counts[0][size_of(w0[i], shift)];
    auto *total = data(by_size);
    std::fill_n(total, SIZES, 0);
    for (auto &turn : counts)
        for (size_t s = 0; s < SIZES; ++s) total[s] += turn[s];
}

// Elements class by class, by w0_N: which they are, and their weights w_N.
void arrange(In<uint16_t> w0_N, int shift, In<uint8_t> classes, In<uint64_t> place,
             In<uint16_t> w_N, Out<uint32_t> at_N, Out<uint16_t> sorted_N) {
    require_shift<uint16_t>(shift);
    require_same_size(w0_N, w_N, at_N, sorted_N);
    Places places(classes, place, w0_N.size());
    auto *w0 = data(w0_N), *w = data(w_N);
    auto *__restrict at = data(at_N);
    auto *__restrict sorted = data(sorted_N);
    for (size_t i = 0, n = w0_N.size(); i < n; ++i) {
        uint64_t p = places.of(size_of(w0[i], shift));
        at[p] = uint32_t(i);
        sorted[p] = w[i];
    }
}

// The elements in that order; `at_N` is what `arrange` wrote over places of elements.
void gather(In<uint16_t> w_N, In<uint32_t> at_N, Out<uint16_t> sorted_N) {
    require_same_size(w_N, at_N, sorted_N);
    auto *w = data(w_N);
    auto *at = data(at_N);
    auto *__restrict sorted = data(sorted_N);
    for (size_t j = 0, n = w_N.size(); j < n; ++j) sorted[j] = w[at[j]];
}

void scatter(In<uint16_t> sorted_N, In<uint32_t> at_N, Out<uint16_t> w_N) {
    require_same_size(w_N, at_N, sorted_N);
    auto *sorted = data(sorted_N);
    auto *at = data(at_N);
    auto *__restrict w = data(w_N);
    for (size_t j = 0, n = w_N.size(); j < n; ++j) w[at[j]] = sorted[j];
}

// Bits that some weight has set.
template <class U> uint32_t used_bits(In<U> w0_N, In<U> w_N) {
    require_same_size(w0_N, w_N);
    auto *w0 = data(w0_N), *w = data(w_N);
    U used = 0;
    for (size_t i = 0, n = w0_N.size(); i < n; ++i) used |= U(w0[i] | w[i]);
    return used;
}

} // namespace

void add_classes(nb::module_ &m) {
    add_loop(m, "count_sizes", count_sizes<uint16_t>, "w0_N", "shift", "by_size");
    add_loop(m, "count_sizes", count_sizes<uint32_t>, "w0_N", "shift", "by_size");
    add_loop(m, "arrange", arrange, "w0_N", "shift", "classes", "place", "w_N", "at_N",
             "sorted_N");
    add_loop(m, "gather", gather, "w_N", "at_N", "sorted_N");
    add_loop(m, "scatter", scatter, "sorted_N", "at_N", "w_N");
    add_loop(m, "used_bits", used_bits<uint16_t>, "w0_N", "w_N");
    add_loop(m, "used_bits", used_bits<uint32_t>, "w0_N", "w_N");
}
