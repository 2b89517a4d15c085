// Loops over many tensors at once: a step of an optimizer, the norm of all gradients.
#include "cpu/elementwise.h"
#include "cpu/heap.h"
#include "cpu/kernels.h"
#include "cpu/sum.h"
#include "formulas/optimizers/list.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace smelt {
inline namespace SMELT_ISA {

namespace {

// Moments that decay into denormals are 59 times slower: while this lives, such results are zero.
class FlushToZero {
public:
#if defined(__SSE__)
    FlushToZero() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8000); }
    ~FlushToZero() { _mm_setcsr(saved_); }

private:
    const unsigned saved_;
#else
    FlushToZero() {}
#endif
};

// Calls f(chunk index) for every chunk of the table, in parallel.
template <class F>
void for_chunks(const ChunkTable& table, const F& f) {
    parallel(table.task_count, [&](std::int64_t task) {
        for (int c = table.tasks[task]; c < table.tasks[task + 1]; ++c) f(c);
    });
}

// The places of one chunk in memory: of the compute type, contiguous.
template <class T>
struct Slices {
    T* p;
    const T* g;
    T* state[OptimizerInfo::max_slots];
};

// What surrounds the formula: clip and maximize (one factor), weight decay of either kind.
template <class T>
struct Surroundings {
    T factor, coupled, decoupled;

    explicit Surroundings(const GroupStep& s)
        : factor(T(s.gradient_factor)), coupled(T(s.coupled_decay)), decoupled(T(s.decoupled_factor)) {}
};

template <unsigned S, class Formula, class T>
SMELT_HD void update_element(const Formula& f, const Surroundings<T>& around, const Slices<T>& at, std::int64_t i) {
    T state[OptimizerInfo::max_slots] = {};
    if constexpr (S & 1) state[0] = at.state[0][i];
    if constexpr (S & 2) state[1] = at.state[1][i];
    if constexpr (S & 4) state[2] = at.state[2][i];
    T p = at.p[i];
    const T decay = around.coupled * p;
    const T g = around.factor * at.g[i] + (around.coupled != 0 ? decay : T(0));
    p *= around.decoupled;
    f.template update<S>(p, g, state);
    at.p[i] = p;
    if constexpr (S & 1) at.state[0][i] = state[0];
    if constexpr (S & 2) at.state[1][i] = state[1];
    if constexpr (S & 4) at.state[2][i] = state[2];
}

template <class Formula, class T, unsigned S>
void update(const Formula& formula, const GroupStep& step, const Slices<T>& slices, std::int64_t n) {
    const Formula f = formula;
    const Surroundings<T> around(step);
    const Slices<T> at = slices;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) update_element<S>(f, around, at, i);
}

template <class Formula, class T, unsigned... S>
void update_slots(unsigned slots, const Formula& f, const GroupStep& step, const Slices<T>& at, std::int64_t n,
                  SlotSets<S...>) {
    (void)((slots == S && (update<Formula, T, S>(f, step, at, n), true)) || ...);
}

template <class Formula, class T>
void update_chunk(const Formula& f, const GroupStep& step, const Tensor& tensor, const Chunk& chunk) {
    const unsigned slots = Formula::slots(step.values);
    const Reader<T> read_p(tensor.parameter), read_g(tensor.gradient);
    const Writer<T> write_p(tensor.parameter);
    const bool direct = read_g.direct() && (write_p.direct() || tensor.master);
    for_tiles(chunk.start, chunk.count, direct && !tensor.master, [&](std::int64_t start, std::int64_t n) {
        Buffer<T> p, g;
        Slices<T> at;
        if constexpr (sizeof(T) == sizeof(float)) {
            at.p = tensor.master ? tensor.master + start : const_cast<T*>(read_p(start, n, p.data));
        } else {
            at.p = const_cast<T*>(read_p(start, n, p.data));
        }
        at.g = read_g(start, n, g.data);
        for (int k = 0; k < OptimizerInfo::max_slots; ++k) {
            at.state[k] = tensor.state[k] ? static_cast<T*>(tensor.state[k]) + start : nullptr;
        }
        update_slots(slots, f, step, at, n, typename Formula::Slots{});
        write_p.commit(start, n, at.p);
    });
}

template <template <class> class Formula>
void step_all(const ChunkTable& table, const GroupStep* steps) {
    int groups = 0;
    for (int task = 0; task < table.task_count; ++task) {
        for (int c = table.tasks[task]; c < table.tasks[task + 1]; ++c) {
            const int group = table.tensors[table.chunks[c].tensor].group;
            groups = group < groups ? groups : group + 1;
        }
    }
    const Heap<Formula<float>> singles(groups);
    const Heap<Formula<double>> doubles(groups);
    for (int g = 0; g < groups; ++g) {
        const Clock clock{steps[g].t, steps[g].momentum_product};
        new (&singles[g]) Formula<float>(steps[g].values, clock);
        new (&doubles[g]) Formula<double>(steps[g].values, clock);
    }
    parallel(table.task_count, [&](std::int64_t task) {
        const FlushToZero flush;
        for (int c = table.tasks[task]; c < table.tasks[task + 1]; ++c) {
            const Chunk& chunk = table.chunks[c];
            const Tensor& tensor = table.tensors[chunk.tensor];
            const GroupStep& step = steps[tensor.group];
            if (computes_in_double(tensor.parameter.dtype)) {
                update_chunk<Formula<double>, double>(doubles[tensor.group], step, tensor, chunk);
            } else {
                update_chunk<Formula<float>, float>(singles[tensor.group], step, tensor, chunk);
            }
        }
    });
}

template <template <class> class... Formulas>
void step_of(int optimizer, const ChunkTable& table, const GroupStep* steps, List<Formulas...>) {
    static constexpr void (*rows[])(const ChunkTable&, const GroupStep*) = {step_all<Formulas>...};
    rows[optimizer](table, steps);
}

// gradient = f(gradient), elementwise, for every chunk.
template <class F>
void map_gradients(const ChunkTable& table, const F& f) {
    for_chunks(table, [&](int c) {
        const Chunk& chunk = table.chunks[c];
        const Array& g = table.tensors[chunk.tensor].gradient;
        with_compute_type(g.dtype, [&](auto t) {
            using T = decltype(t);
            const Reader<T> read(g);
            const Writer<T> write(g);
            for_tiles(chunk.start, chunk.count, read.direct(), [&](std::int64_t start, std::int64_t n) {
                Buffer<T> scratch;
                const T* const from = read(start, n, scratch.data);
                T* const to = write(start, scratch.data);
                f(chunk.tensor, from, to, n);
                write.commit(start, n, to);
            });
        });
    });
}

}  // namespace

void optimizer_step(int optimizer, const ChunkTable& table, const GroupStep* steps) {
    step_of(optimizer, table, steps, Optimizers{});
}

void squared_norms(const ChunkTable& table, double* per_chunk) {
    for_chunks(table, [&](int c) {
        const Chunk& chunk = table.chunks[c];
        const Array& g = table.tensors[chunk.tensor].gradient;
        per_chunk[c] = 0;
        with_compute_type(g.dtype, [&](auto t) {
            using T = decltype(t);
            const Reader<T> read(g);
            for_tiles(chunk.start, chunk.count, read.direct(), [&](std::int64_t start, std::int64_t n) {
                Buffer<T> scratch;
                const T* const v = read(start, n, scratch.data);
                per_chunk[c] += sum(n, [&](std::int64_t i) { return double(v[i]) * double(v[i]); });
            });
        });
    });
}

void scale(const ChunkTable& table, const double* factors) {
    map_gradients(table, [&](int tensor, const auto* from, auto* to, std::int64_t n) {
        const auto factor = std::remove_reference_t<decltype(*to)>(factors[tensor]);
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] * factor;
    });
}

void clamp(const ChunkTable& table, double limit) {
    map_gradients(table, [&](int, const auto* from, auto* to, std::int64_t n) {
        const auto top = std::remove_reference_t<decltype(*to)>(limit);
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] > top ? top : from[i] < -top ? -top : from[i];
    });
}

}  // namespace SMELT_ISA
}  // namespace smelt
