// The loops of `steps`: a step between two floats as a byte, in the order of classes.
#include "codecs/classes.hpp"

namespace {

using U = uint16_t;
constexpr U ESCAPE = 255;
constexpr size_t BLOCK = 1024;  // elements at a time, in the nearest cache

// Steps and their bytes, of elements in any order.
void steps_to(In<U> w0_N, In<U> w_N, Out<U> z_N, Out<uint8_t> bytes_N) {
    require_same_size(w0_N, w_N, z_N, bytes_N);
    auto *w0 = data(w0_N), *w = data(w_N);
    auto *__restrict z = data(z_N);
    auto *__restrict bytes = data(bytes_N);
    for (size_t i = 0, n = w0_N.size(); i < n; ++i) {
        z[i] = step(w0[i], w[i]);
        bytes[i] = uint8_t(std::min(z[i], ESCAPE));
    }
}

// Bytes class by class, and steps that are escaped in order of their elements; returns how many.
size_t encode(In<U> w0_N, In<U> w_N, int shift, In<uint8_t> classes, In<uint64_t> place,
              Out<uint8_t> sorted_N, Out<U> escapes_N) {
    require_shift<U>(shift);
    require_same_size(w0_N, w_N, sorted_N, escapes_N);
    Places places(classes, place, w0_N.size());
    size_t found = 0, n = w0_N.size();
    auto *sorted = data(sorted_N);
    auto *escapes = data(escapes_N);
    for (size_t start = 0; start < n; start += BLOCK) {
        size_t many = std::min(BLOCK, n - start);
        auto *w0 = data(w0_N) + start, *w = data(w_N) + start;
        U z[BLOCK], largest = 0;
        uint8_t bytes[BLOCK];
        for (size_t i = 0; i < many; ++i) {
            z[i] = step(w0[i], w[i]);
            bytes[i] = uint8_t(std::min(z[i], ESCAPE));
            largest = std::max(largest, z[i]);
        }
        for (size_t i = 0; i < many; ++i) sorted[places.of(size_of(w0[i], shift))] = bytes[i];
        if (largest < ESCAPE) continue;
        for (size_t i = 0; i < many; ++i) {
            escapes[found] = z[i];  // kept only where `found` moves on; never past its element
            found += z[i] >= ESCAPE;
        }
    }
    return found;
}

// Weights from sorted bytes; false where not as many are escaped as there are steps.
bool decode(In<U> w0_N, int shift, In<uint8_t> classes, In<uint64_t> place, In<uint8_t> sorted_N,
            In<U> escapes_E, Out<U> w_N) {
    require_shift<U>(shift);
    require_same_size(w0_N, sorted_N, w_N);
    Places places(classes, place, w0_N.size());
    size_t found = 0, n = w0_N.size();
    auto *sorted = data(sorted_N);
    auto *steps = data(escapes_E);
    for (size_t start = 0; start < n; start += BLOCK) {
        size_t many = std::min(BLOCK, n - start);
        auto *w0 = data(w0_N) + start;
        auto *__restrict w = data(w_N) + start;
        uint8_t bytes[BLOCK], largest = 0;
        for (size_t i = 0; i < many; ++i) bytes[i] = sorted[places.of(size_of(w0[i], shift))];
        for (size_t i = 0; i < many; ++i) {
            largest = std::max(largest, bytes[i]);
            w[i] = stepped(w0[i], U(bytes[i]));
        }
        for (size_t i = 0; largest == ESCAPE && i < many; ++i) {
            if (bytes[i] != ESCAPE) continue;
            if (found == escapes_E.size()) return false;
            w[i] = stepped(w0[i], steps[found++]);
        }
    }
    return found == escapes_E.size();
}

} // namespace

void add_steps(nb::module_ &m) {
    add_loop(m, "steps_to", steps_to, "w0_N", "w_N", "z_N", "bytes_N");
    add_loop(m, "encode", encode, "w0_N", "w_N", "shift", "classes", "place", "sorted_N", "escapes_N");
    add_loop(m, "decode", decode, "w0_N", "shift", "classes", "place", "sorted_N", "escapes_E", "w_N");
}
