// Threads. Results never depend on their number: the division of work depends only on its size, and partial results are
// combined in order.
#pragma once

#include <cstdint>
#include <type_traits>

namespace gradfuse {

int get_num_threads();
void set_num_threads(int n);

void parallel_for(std::int64_t tasks, void (*task)(const void* context, std::int64_t k), const void* context);

// Calls f(k) for k in [0, tasks). A single task runs in the calling thread, without lock or allocation.
template <class F>
inline __attribute__((always_inline)) void parallel(std::int64_t tasks, const F& f) {
    if (tasks == 1) {
        f(std::int64_t(0));
    } else if (tasks > 1) {
        parallel_for(tasks, [](const void* c, std::int64_t k) { (*static_cast<const F*>(c))(k); }, &f);
    }
}

}  // namespace gradfuse
