// What most loops ask of their arrays.
#pragma once

#include "arrays.hpp"

template <class First, class... Others>
void require_same_size(const First &first, const Others &...others) {
    require(((others.size() == first.size()) && ...), "arrays of a loop have several sizes");
}
