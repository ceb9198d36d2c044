// Floats as whole numbers in their order, and steps between them. Unsigned numbers wrap, so all of it
// is exact for every bit pattern. U: uint16_t or uint32_t, a weight's bits.
#pragma once

#include "codecs/inlined.hpp"

#include <climits>
#include <cstdint>

template <class U> constexpr int BITS = sizeof(U) * CHAR_BIT;
template <class U> constexpr U BELOW = U(U(~U(0)) >> 1);  // all bits but the sign

// An integer that counts floats in order, in steps of one ulp; its own inverse.
template <class U> INLINED U order(U x) {
    return U(x ^ U(U(0 - U(x >> (BITS<U> - 1))) >> 1));
}

// The sign in the lowest bit, so that small steps are small.
template <class U> INLINED U folded(U d) { return U(U(d << 1) ^ U(0 - U(d >> (BITS<U> - 1)))); }
template <class U> INLINED U unfolded(U z) { return U(U(z >> 1) ^ U(0 - U(z & 1))); }

template <class U> INLINED U step(U w0, U w) { return folded(U(order(w) - order(w0))); }
template <class U> INLINED U stepped(U w0, U z) { return order(U(order(w0) + unfolded(z))); }
template <class U> INLINED U stepped_back(U w, U z) { return order(U(order(w) - unfolded(z))); }

// A weight's size s, its exponent or so: its bits without the sign, shifted.
template <class U> INLINED uint32_t size_of(U w0, int shift) {
    return uint32_t(U(w0 & BELOW<U>)) >> shift;
}
