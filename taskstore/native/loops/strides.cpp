// The loops of `strides`: a step away from zero as a byte like a small float, and its plain bits.
#include "codecs/fields.hpp"
#include "codecs/classes.hpp"

#include <nanobind/stl/pair.h>

#include <bit>

namespace {

constexpr size_t BLOCK = FieldReader::BLOCK;  // elements at a time, in the nearest cache

// How many plain bits a step has whose byte's upper seven bits are `v`.
INLINED uint8_t left(uint8_t v, int kept) {
    return uint8_t(std::max<uint8_t>(v >> kept, 1) - 1);
}

// Plain bits that these steps have, and the largest of their upper seven bits.
std::pair<uint64_t, int> plain(In<uint8_t> bytes_N, int kept) {
    auto *bytes = data(bytes_N);
    uint64_t total = 0;
    uint8_t largest = 0;
    for (size_t start = 0; start < bytes_N.size(); start += BLOCK) {
        uint32_t some = 0;
        size_t stop = std::min(start + BLOCK, bytes_N.size());
        for (size_t i = start; i < stop; ++i) {
            uint8_t v = bytes[i] >> 1;
            some += left(v, kept);
            largest = std::max(largest, v);
        }
        total += some;
    }
    return {total, largest};
}

// A step's byte. A float's exponent and leading bits are what it needs, and exact here.
template <class U> INLINED uint8_t shortened(U far, int kept) {
    uint32_t half = uint32_t(far) >> 1, v;
    if constexpr (sizeof(U) == 2) {
        v = (std::bit_cast<uint32_t>(float(int32_t(half))) >> (23 - kept))
            - (((127 + kept) << kept) - (1 << kept));
    } else {
        v = uint32_t((std::bit_cast<uint64_t>(double(int32_t(half))) >> (52 - kept))
                          - (((1023 + kept) << kept) - (1 << kept)));
    }
    v = half >= uint32_t(1) << kept ? v : half;
    return uint8_t(v << 1 | (far & 1));
}

// Bytes class by class, and plain bits; returns how many of those. `words` has room for all that
// there can be, and one more.
template <class U>
uint64_t encode(In<U> w0_N, In<U> w_N, int shift, int unused, int kept, In<uint8_t> classes,
                In<uint64_t> place, Out<uint8_t> sorted_N, Out<uint32_t> words) {
    require_shift<U>(shift);
    require(kept == 2 || kept == 3, "a step's byte holds 2 or 3 bits");
    require_same_size(w0_N, w_N, sorted_N);
    require(words.size() > (w0_N.size() * size_t(BITS<U> - 2 - kept) + 31) / 32,
            "plain bits have too little room");
    Places places(classes, place, w0_N.size());
    FieldWriter fields(data(words));
    auto *sorted = data(sorted_N);
    for (size_t start = 0; start < w0_N.size(); start += BLOCK) {
        size_t many = std::min(BLOCK, w0_N.size() - start);
        auto *w0 = data(w0_N) + start, *w = data(w_N) + start;
        U far[BLOCK];
        uint8_t bytes[BLOCK], widths[BLOCK];
        for (size_t i = 0; i < many; ++i) {
            U crossed = U(U(w[i] ^ w0[i]) & U(~BELOW<U>));
            U size0 = U(U(w0[i] & BELOW<U>) >> unused), size = U(U(w[i] & BELOW<U>) >> unused);
            far[i] = step(size0, U(size | crossed));
        }
        for (size_t i = 0; i < many; ++i) bytes[i] = shortened(far[i], kept);
        for (size_t i = 0; i < many; ++i) widths[i] = left(bytes[i] >> 1, kept);
        for (size_t i = 0; i < many; ++i) sorted[places.of(size_of(w0[i], shift))] = bytes[i];
        for (size_t i = 0; i < many; ++i) fields.put(far[i] >> 1, widths[i]);
    }
    return fields.end();
}

// Weights from sorted bytes and plain bits; false where these are fewer or more, or filled by ones.
template <class U>
bool decode(In<U> w0_N, int shift, int unused, int kept, In<uint8_t> classes, In<uint64_t> place,
            In<uint8_t> sorted_N, In<uint8_t> plain_P, Out<U> w_N) {
    require_shift<U>(shift);
    require(kept == 2 || kept == 3, "a step's byte holds 2 or 3 bits");
    require_same_size(w0_N, sorted_N, w_N);
    Places places(classes, place, w0_N.size());
    FieldReader fields(data(plain_P), plain_P.size());
    auto *sorted = data(sorted_N);
    for (size_t start = 0; start < w0_N.size(); start += BLOCK) {
        size_t many = std::min(BLOCK, w0_N.size() - start);
        auto *w0 = data(w0_N) + start;
        auto *__restrict w = data(w_N) + start;
        uint8_t bytes[BLOCK], widths[BLOCK];
        U low[BLOCK];
        uint32_t total = 0;
        for (size_t i = 0; i < many; ++i) bytes[i] = sorted[places.of(size_of(w0[i], shift))];
        for (size_t i = 0; i < many; ++i) {
            widths[i] = left(bytes[i] >> 1, kept);
            total += widths[i];
        }
        if (!fields.template read<BITS<U>>(many, widths, total, low)) return false;
        for (size_t i = 0; i < many; ++i) {
            uint32_t upper = uint32_t(bytes[i] >> 1) - (uint32_t(widths[i]) << kept);
            U z = U(U(U(upper << widths[i] | low[i]) << 1) | U(bytes[i] & 1));
            U crossed = stepped(U(U(w0[i] & BELOW<U>) >> unused), z);
            w[i] = U(U(U(crossed << unused) & BELOW<U>) | U(U(crossed ^ w0[i]) & U(~BELOW<U>)));
        }
    }
    return fields.ended();
}

} // namespace

template <class U> static void add_for(nb::module_ &m) {
    add_loop(m, "encode", encode<U>, "w0_N", "w_N", "shift", "unused", "kept", "classes", "place",
             "sorted_N", "words");
    add_loop(m, "decode", decode<U>, "w0_N", "shift", "unused", "kept", "classes", "place", "sorted_N",
             "plain", "w_N");
}

void add_strides(nb::module_ &m) {
    add_loop(m, "plain", plain, "bytes_N", "kept");
    add_for<uint16_t>(m);
    add_for<uint32_t>(m);
}
