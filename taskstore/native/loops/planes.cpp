// Byte planes of floats (`rotated`, `ulp`), and W1 of `rounded`. Planes stand lowest byte first.
#include "codecs/sizes.hpp"
#include "codecs/floats.hpp"

#include <bit>

namespace {

using Bytes = In<uint8_t>;
using OutBytes = Out<uint8_t>;

template <class Function>
INLINED void put16(size_t n, uint8_t *__restrict low, uint8_t *__restrict high, Function z_of) {
    for (size_t i = 0; i < n; ++i) {
        uint16_t z = z_of(i);
        low[i] = uint8_t(z);
        high[i] = uint8_t(z >> 8);
    }
}

template <class Function>
INLINED void put32(size_t n, uint8_t *__restrict p0, uint8_t *__restrict p1,
           uint8_t *__restrict p2, uint8_t *__restrict p3, Function z_of) {
    for (size_t i = 0; i < n; ++i) {
        uint32_t z = z_of(i);
        p0[i] = uint8_t(z);
        p1[i] = uint8_t(z >> 8);
        p2[i] = uint8_t(z >> 16);
        p3[i] = uint8_t(z >> 24);
    }
}

INLINED uint16_t get16(size_t i, const uint8_t *low, const uint8_t *high) {
    return uint16_t(low[i] | high[i] << 8);
}

INLINED uint32_t get32(size_t i, const uint8_t *p0, const uint8_t *p1,
                    const uint8_t *p2, const uint8_t *p3) {
    return p0[i] | uint32_t(p1[i]) << 8 | uint32_t(p2[i]) << 16 | uint32_t(p3[i]) << 24;
}

// Rotate left by one, so that the sign leaves the exponent's byte, and split into bytes.
void split16(In<uint16_t> x_N, OutBytes low, OutBytes high) {
    require_same_size(x_N, low, high);
    put16(x_N.size(), data(low), data(high), [x = data(x_N)](size_t i) {
        return uint16_t(x[i] << 1 | x[i] >> 15);
    });
}

void split32(In<uint32_t> x_N, OutBytes p0, OutBytes p1, OutBytes p2, OutBytes p3) {
    require_same_size(x_N, p0, p1, p2, p3);
    put32(x_N.size(), data(p0), data(p1), data(p2), data(p3),
          [x = data(x_N)](size_t i) { return x[i] << 1 | x[i] >> 31; });
}

void join16(Bytes low, Bytes high, Out<uint16_t> x_N) {
    require_same_size(x_N, low, high);
    auto *__restrict x = data(x_N);
    auto *a = data(low), *b = data(high);
    for (size_t i = 0, n = x_N.size(); i < n; ++i) {
        uint16_t r = get16(i, a, b);
        x[i] = uint16_t(r >> 1 | r << 15);
    }
}

void join32(Bytes p0, Bytes p1, Bytes p2, Bytes p3, Out<uint32_t> x_N) {
    require_same_size(x_N, p0, p1, p2, p3);
    auto *__restrict x = data(x_N);
    auto *a = data(p0), *b = data(p1), *c = data(p2), *d = data(p3);
    for (size_t i = 0, n = x_N.size(); i < n; ++i) {
        uint32_t r = get32(i, a, b, c, d);
        x[i] = r >> 1 | r << 31;
    }
}

// Steps from w0 to w1 in byte planes.
void ulp_split16(In<uint16_t> w0_N, In<uint16_t> w1_N, OutBytes low, OutBytes high) {
    require_same_size(w0_N, w1_N, low, high);
    put16(w0_N.size(), data(low), data(high), [w0 = data(w0_N), w1 = data(w1_N)](size_t i) {
        return step(w0[i], w1[i]);
    });
}

void ulp_split32(In<uint32_t> w0_N, In<uint32_t> w1_N, OutBytes p0, OutBytes p1,
                 OutBytes p2, OutBytes p3) {
    require_same_size(w0_N, w1_N, p0, p1, p2, p3);
    put32(w0_N.size(), data(p0), data(p1), data(p2), data(p3),
          [w0 = data(w0_N), w1 = data(w1_N)](size_t i) { return step(w0[i], w1[i]); });
}

void ulp_join16(In<uint16_t> w0_N, Bytes low, Bytes high, Out<uint16_t> w1_N) {
    require_same_size(w0_N, w1_N, low, high);
    auto *w0 = data(w0_N);
    auto *__restrict w1 = data(w1_N);
    auto *a = data(low), *b = data(high);
    for (size_t i = 0, n = w0_N.size(); i < n; ++i) w1[i] = stepped(w0[i], get16(i, a, b));
}

void ulp_join32(In<uint32_t> w0_N, Bytes p0, Bytes p1, Bytes p2, Bytes p3,
                Out<uint32_t> w1_N) {
    require_same_size(w0_N, w1_N, p0, p1, p2, p3);
    auto *w0 = data(w0_N);
    auto *__restrict w1 = data(w1_N);
    auto *a = data(p0), *b = data(p1), *c = data(p2), *d = data(p3);
    for (size_t i = 0, n = w0_N.size(); i < n; ++i) w1[i] = stepped(w0[i], get32(i, a, b, c, d));
}

// fp32(w0 + widened bf16), w0 where that is not finite; everything as bit patterns.
void add_bf16(In<uint32_t> w0_N, In<uint16_t> vector_N, Out<uint32_t> w1_N) {
    require_same_size(w0_N, vector_N, w1_N);
    auto *w0 = data(w0_N);
    auto *vector = data(vector_N);
    auto *__restrict w1 = data(w1_N);
    for (size_t i = 0, n = w0_N.size(); i < n; ++i) {
        float value = std::bit_cast<float>(w0[i]) + std::bit_cast<float>(uint32_t(vector[i]) << 16);
        uint32_t bits = std::bit_cast<uint32_t>(value);
        w1[i] = (bits & 0x7F800000) != 0x7F800000 ? bits : w0[i];
    }
}

} // namespace

void add_planes(nb::module_ &m) {
    add_loop(m, "split", split16, "x_N", "low", "high");
    add_loop(m, "split", split32, "x_N", "p0", "p1", "p2", "p3");
    add_loop(m, "join", join16, "low", "high", "x_N");
    add_loop(m, "join", join32, "p0", "p1", "p2", "p3", "x_N");
    add_loop(m, "ulp_split", ulp_split16, "w0_N", "w1_N", "low", "high");
    add_loop(m, "ulp_split", ulp_split32, "w0_N", "w1_N", "p0", "p1", "p2", "p3");
    add_loop(m, "ulp_join", ulp_join16, "w0_N", "low", "high", "w1_N");
    add_loop(m, "ulp_join", ulp_join32, "w0_N", "p0", "p1", "p2", "p3", "w1_N");
    add_loop(m, "add_bf16", add_bf16, "w0_N", "vector_N", "w1_N");
}
