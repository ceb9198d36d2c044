// Elements in classes by the size of the base's weights. Callers take the class of each size and where
// each class begins from the weights that they pass, never from a stream. Where those change between the
// two, as a mapped file may, places end at the last one: none lies outside.
#pragma once

#include "codecs/sizes.hpp"
#include "codecs/floats.hpp"

#include <algorithm>

constexpr size_t SIZES = 256, MOST_CLASSES = 16;

// Whether a size has eight bits at most.
template <class U> void require_shift(int shift) {
    require(shift >= BITS<U> - 9 && shift < BITS<U>, "a size has more than eight bits");
}

// The next free place of each class, on the stack: no store of bytes can change it.
struct Places {
    uint64_t next[MOST_CLASSES];
    const uint8_t *classes;
    uint64_t last;

    Places(In<uint8_t> classes, In<uint64_t> place, size_t count)
        : classes(data(classes)), last(count - 1) {
        require(classes.size() == SIZES && place.size() <= MOST_CLASSES &&
                    *std::max_element(this->classes, this->classes + SIZES) < place.size(),
                "there are 256 sizes, and a place for each class");
        std::copy_n(data(place), place.size(), next);
    }
    INLINED uint64_t of(uint32_t size) { return std::min(next[classes[size]]++, last); }
};
