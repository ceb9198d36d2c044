// What the processor has, and the system lets programs use. Compiled for any processor.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

namespace nb = nanobind;

static std::vector<std::string> levels() {
#if defined(__x86_64__)
    std::vector<std::string> found;
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") &&
          __builtin_cpu_supports("popcnt")))
        return found;
    found.push_back("v2");
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
          __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma")))
        return found;
    found.push_back("v3");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found.push_back("v4");
    return found;
#else
    return {"plain"};
#endif
}

NB_MODULE(processor, m) {
    m.def("levels", &levels, "The levels that run here, the best last.");
}
