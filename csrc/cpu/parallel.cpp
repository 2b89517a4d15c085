#include "cpu/parallel.h"

#include <atomic>
#include <thread>

#if SMELT_WITH_TBB
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>

#include <memory>
#include <mutex>
#endif

namespace smelt {

#if SMELT_WITH_TBB

namespace {

// Threads beyond the processor's are allowed: the arena says how many work, the control that they may exist.
struct Threads {
    explicit Threads(int n) : count(n), control(tbb::global_control::max_allowed_parallelism, n), arena(n) {}
    int count;
    tbb::global_control control;
    tbb::task_arena arena;
};

std::mutex& mutex() {
    static std::mutex m;
    return m;
}

// A call keeps the threads it began with; never freed at exit, when workers may already be gone.
std::shared_ptr<Threads>& threads() {
    static auto* t = new std::shared_ptr<Threads>(std::make_shared<Threads>(tbb::this_task_arena::max_concurrency()));
    return *t;
}

std::shared_ptr<Threads> current() {
    std::lock_guard lock(mutex());
    return threads();
}

}  // namespace

const char* threading_name() { return "oneTBB"; }
int get_num_threads() { return current()->count; }

void set_num_threads(int n) {
    auto next = std::make_shared<Threads>(n);
    std::lock_guard lock(mutex());
    threads() = std::move(next);
}

void parallel_for(std::int64_t tasks, void (*task)(const void*, std::int64_t), const void* context) {
    const auto team = current();
    if (team->count == 1) {
        for (std::int64_t k = 0; k < tasks; ++k) task(context, k);
        return;
    }
    team->arena.execute([&] { tbb::parallel_for(std::int64_t(0), tasks, [&](std::int64_t k) { task(context, k); }); });
}

#else

const char* threading_name() { return "none (built without oneTBB)"; }
int get_num_threads() { return 1; }
void set_num_threads(int) {}

void parallel_for(std::int64_t tasks, void (*task)(const void*, std::int64_t), const void* context) {
    for (std::int64_t k = 0; k < tasks; ++k) task(context, k);
}

#endif

}  // namespace smelt
