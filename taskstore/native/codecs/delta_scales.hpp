// What the context of a delta is made of: twice the octaves of the base's weight above a usual step, plus
// the codes of its row and column, where there are some.
#pragma once

#include "codecs/deltas.hpp"

namespace deltas {

// Goes through the elements of a chunk in their order, which begins `first` elements into a row.
class Scales {
public:
    // `rows` has as many as the elements touch; none where `columns` is 0.
    Scales(const uint8_t *rows, const uint8_t *columns, size_t count, size_t first)
        : row_(rows), columns_(columns), count_(count), at_(first) {}

    template <class U>
    void next(size_t n, const int32_t *__restrict w0, Way way, uint8_t *__restrict scales) {
        for (size_t i = 0; i < n; ++i) {
            int32_t e = sub(std::max(shr(magnitude<U>(w0[i], way.unused), way.m), way.g), way.g);
            scales[i] = uint8_t(std::min(shl(e, 1), 255));
        }
        for (size_t i = 0; count_ && i < n;) {
            size_t many = std::min(n - i, count_ - at_);
            uint16_t code = *row_;
            const uint8_t *columns = columns_ + at_;
            uint8_t *__restrict some = scales + i;
            for (size_t j = 0; j < many; ++j)
                some[j] = uint8_t(std::min<uint16_t>(uint16_t(some[j] + code + columns[j]), 255));
            i += many;
            at_ += many;
            if (at_ == count_) ++row_, at_ = 0;
        }
    }

private:
    const uint8_t *row_, *columns_;
    size_t count_, at_;
};

} // namespace deltas
