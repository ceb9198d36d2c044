// Fields of 0 to 32 bits, one after the other, each lowest bit first.
#pragma once

#include "codecs/inlined.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

// Writes fields; the words are the caller's, one more than full ones and 0 to begin with.
class FieldWriter {
public:
    explicit FieldWriter(uint32_t *words) : words_(words) {}

    INLINED void put(uint64_t field, unsigned width) {
        held_ |= (field & ((uint64_t(1) << width) - 1)) << fill_;
        fill_ += width;
        used_ += width;
        words_[at_] = uint32_t(held_);  // stays only where `at_` moves on
        unsigned full = fill_ >> 5;
        at_ += full;
        held_ >>= full << 5;
        fill_ &= 31;
    }
    uint64_t end() {
        words_[at_] = uint32_t(held_);
        return used_;
    }

private:
    uint32_t *words_;
    uint64_t held_ = 0, used_ = 0;
    size_t at_ = 0;
    unsigned fill_ = 0;
};

// Reads fields of a block of elements at a time. It checks once per block that they are all there.
class FieldReader {
public:
    static constexpr size_t BLOCK = 1024;  // elements at most

    FieldReader(const uint8_t *data, size_t size) : data_(data), size_(size) {}

    // Fields of these widths, MOST bits at most, which add up to `total`; false where there are fewer bits.
    template <int MOST, class W, class U>
    bool read(size_t n, const W *widths, uint64_t total, U *__restrict fields) {
        if (total > 8 * uint64_t(size_) - used_) return false;
        const uint8_t *from = data_ + used_ / 8;
        uint64_t at = used_ % 8;
        uint8_t tail[4 * BLOCK + 16];
        if (size_t left = size_ - used_ / 8; left < (at + total) / 8 + 8) {
            std::memcpy(tail, from, left);
            std::memset(tail + left, 0, 8);
            from = tail;
        }
        constexpr size_t TOGETHER = (64 - 7) / MOST; // fields that one load has
        auto some = [&](size_t first, size_t many) {
            uint64_t bits;
            std::memcpy(&bits, from + at / 8, sizeof bits);
            bits >>= at % 8;
            for (size_t i = first; i < first + many; ++i) {
                fields[i] = U(bits & ((uint64_t(1) << widths[i]) - 1));
                bits >>= widths[i];
                at += widths[i];
            }
        };
        size_t i = 0;
        for (; i + TOGETHER <= n; i += TOGETHER) some(i, TOGETHER);
        for (; i < n; ++i) some(i, 1);
        used_ += total;
        return true;
    }
    // Whether all bits are read but those that fill the last byte, which are 0.
    bool ended() const {
        return size_ == (used_ + 7) / 8 && (used_ % 8 == 0 || data_[size_ - 1] >> used_ % 8 == 0);
    }

private:
    const uint8_t *data_;
    size_t size_;
    uint64_t used_ = 0;
};
