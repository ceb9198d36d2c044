// Threads of the OpenMP that the process has already (torch brings one): threads of our own would wait for
// the same cores as its, which go on spinning for a while after each of its loops.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdint>

// Call `work(first, last)` for all of [0, n) in steps, on as many threads at most.
template <class Work> void share(int64_t n, int64_t step, int threads, const Work &work) {
    using Region = void (*)(void (*)(void *), void *, unsigned, unsigned);
    static const Region region = reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    struct Shared {
        std::atomic<int64_t> next;
        int64_t n, step;
        const Work &work;
    } shared{0, n, step, work};
    auto run = [](void *given) {
        auto &mine = *static_cast<Shared *>(given);
        for (int64_t at; (at = mine.next.fetch_add(mine.step)) < mine.n;)
            mine.work(at, std::min(mine.n, at + mine.step));
    };
    if (region && threads > 1 && n > step) region(run, &shared, static_cast<unsigned>(threads), 0);
    else run(&shared);
}
