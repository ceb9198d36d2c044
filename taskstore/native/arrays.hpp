// NumPy arrays as a loop takes them, and how a loop becomes a function of Python.
//
// Arrays are typed, contiguous, aligned and on the CPU, and are never copied on the way: another one is a
// TypeError, an array that is not aligned a ValueError. A loop writes into arrays that the caller made, and
// runs without the GIL. It checks sizes itself, at its top, by `require`: nothing behind that does.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <type_traits>

namespace nb = nanobind;

// Shapes: vectors (N,), tables (R, C), and three axes. `In` is read, `Out` written.
template <class T> using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T> using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T> using In3 = nb::ndarray<const T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
template <class T> using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T> using Out2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T> using Out3 = nb::ndarray<T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// A mistake of ours, in Python's words a ValueError.
inline void require(bool holds, const char *what) {
    if (!holds) throw std::invalid_argument(what);
}

// The elements of an array, once they are known to be aligned.
template <class A> auto data(const A &array) {
    auto *first = array.data();
    require(reinterpret_cast<std::uintptr_t>(first) % alignof(std::remove_pointer_t<decltype(first)>) == 0,
            "an array is not aligned");
    return first;
}

// Elements along an axis.
template <class A> int64_t length(const A &array, int axis = 0) {
    return static_cast<int64_t>(array.shape(axis));
}

template <class A> constexpr auto argument(const char *name) {
    if constexpr (std::is_arithmetic_v<A>)
        return nb::arg(name);
    else
        return nb::arg(name).noconvert();
}

// Add a loop to a module: arrays are taken as they are, numbers of Python are converted.
template <class R, class... A, class... Names>
void add_loop(nb::module_ &m, const char *name, R (*loop)(A...), Names... names) {
    static_assert(sizeof...(A) == sizeof...(Names), "a name for each argument");
    m.def(name, loop, argument<A>(names)...,
          nb::call_guard<nb::gil_scoped_release>());
}
