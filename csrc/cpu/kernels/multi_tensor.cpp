// Loops over many tensors at once: a step of an optimizer, the norm of all gradients.
#include <type_traits>

#include "cpu/elementwise.h"
#include "cpu/heap.h"
#include "cpu/kernels.h"
#include "cpu/sum.h"
#include "formulas/clip.h"
#include "formulas/optimizers/list.h"
#include "formulas/optimizers/update.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

// Arithmetic on moments that decay to denormals is 59 times slower. While this object exists, such results are zero.
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

// Not inlined: a test reads each of these in the built module.
template <template <class> class Formula, class T, unsigned S>
__attribute__((noinline)) void update(const Update<Formula, T>& group, const Slices<T>& slices, std::int64_t n) {
    const Update<Formula, T> u = group;
    const Slices<T> at = slices;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) u.template element<S>(at, i);
}

template <template <class> class Formula, class T, unsigned... S>
void update_slots(const Update<Formula, T>& u, const Slices<T>& at, std::int64_t n, SlotSets<S...>) {
    (void)((u.slots == S && (update<Formula, T, S>(u, at, n), true)) || ...);
}

template <template <class> class Formula, class T>
void update_chunk(const Update<Formula, T>& u, const Tensor& tensor, const Chunk& chunk) {
    const Reader<T> read_p(tensor.parameter), read_g(tensor.gradient);
    const Writer<T> write_p(tensor.parameter);
    const bool direct = read_g.direct() && write_p.direct() && !tensor.master;
    for_tiles(chunk.start, chunk.count, direct, [&](std::int64_t start, std::int64_t n) {
        Buffer<T> p, g;
        Slices<T> at;
        at.p = nullptr;
        if constexpr (std::is_same_v<T, float>) at.p = tensor.master ? tensor.master + start : nullptr;
        if (!at.p) at.p = const_cast<T*>(read_p(start, n, p.data));
        at.g = read_g(start, n, g.data);
        for (int k = 0; k < OptimizerInfo::max_slots; ++k) {
            at.state[k] = tensor.state[k] ? static_cast<T*>(tensor.state[k]) + start : nullptr;
        }
        update_slots(u, at, n, typename Formula<T>::Slots{});
        write_p.commit(start, n, at.p);
    });
}

template <template <class> class Formula>
void step_all(const ChunkTable& table, const OptimizerStep& step) {
    const Heap<Update<Formula, float>> singles(step.group_count);
    const Heap<Update<Formula, double>> doubles(step.group_count);
    const double clip = step.norm ? clip_factor(*step.norm, step.limit) : 1;
    for (int g = 0; g < step.group_count; ++g) {
        Clock& clock = step.clocks[g];
        ++clock.t;
        Formula<float>::advance(step.groups[g].values, clock);
        new (&singles[g]) Update<Formula, float>(step.groups[g], clock, clip);
        new (&doubles[g]) Update<Formula, double>(step.groups[g], clock, clip);
    }
    parallel(table.task_count, [&](std::int64_t task) {
        const FlushToZero flush;
        for (int c = table.tasks[task]; c < table.tasks[task + 1]; ++c) {
            const Chunk& chunk = table.chunks[c];
            const Tensor& tensor = table.tensors[chunk.tensor];
            if (computes_in_double(tensor.parameter.dtype)) {
                update_chunk(doubles[tensor.group], tensor, chunk);
            } else {
                update_chunk(singles[tensor.group], tensor, chunk);
            }
        }
    });
}

template <template <class> class... Formulas>
void step_of(const ChunkTable& table, const OptimizerStep& step, List<Formulas...>) {
    static constexpr void (*rows[])(const ChunkTable&, const OptimizerStep&) = {step_all<Formulas>...};
    rows[step.optimizer](table, step);
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

void optimizer_step(const ChunkTable& table, const OptimizerStep& step) {
    if (step.norm && step.skip && !math::is_finite(*step.norm)) return;
    step_of(table, step, Optimizers{});
}

void set_groups(const ChunkTable&, const OptimizerStep&) {}  // the CPU has no graph capture

// Added in the order of the list, for any number of threads.
void gradient_norms(const ChunkTable& table, bool per_tensor, double* norms) {
    const Heap<double> per_chunk(table.chunk_count);
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
                per_chunk[c] += sum_of_squares(n, [&](std::int64_t i) { return v[i]; });
            });
        });
    });
    const Heap<double> squares(table.tensor_count);
    for (int k = 0; k < table.tensor_count; ++k) squares[k] = 0;
    for (int c = 0; c < table.chunk_count; ++c) squares[table.chunks[c].tensor] += per_chunk[c];
    double total = 0;
    for (int k = 0; k < table.tensor_count; ++k) {
        total += squares[k];
        if (per_tensor) norms[k] = math::sqrt(squares[k]);
    }
    if (!per_tensor) *norms = math::sqrt(total);
}

void clip_to_norm(const ChunkTable& table, bool per_tensor, const double* norms, double limit, bool all) {
    const auto factor_of = [&](double norm) { return all || math::is_finite(norm) ? clip_factor(norm, limit) : 1; };
    if (!per_tensor && factor_of(*norms) == 1) return;
    map_gradients(table, [&](int tensor, const auto* from, auto* to, std::int64_t n) {
        const double scale = factor_of(norms[per_tensor ? tensor : 0]);
        if (scale == 1 && from == to) return;
        const auto factor = std::remove_reference_t<decltype(*to)>(scale);
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

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
