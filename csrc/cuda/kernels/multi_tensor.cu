// Optimizers and gradient clipping.
#include <cmath>
#include <stdexcept>
#include <string>

#include "cuda/kernels.h"
#include "cuda/multi_tensor.cuh"
#include "formulas/clip.h"
#include "formulas/optimizers/list.h"
#include "formulas/optimizers/update.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

// The tables of a call: those of an optimizer, or tables for this call only.
class TablesOf {
public:
    explicit TablesOf(const ChunkTable& table) {
        std::unique_ptr<Resident>& kept = table.resident ? *table.resident : own_;
        if (!kept) kept = std::make_unique<Tables>(table.resident != nullptr);
        tables_ = static_cast<Tables*>(kept.get());
    }
    Tables* operator->() const { return tables_; }

private:
    std::unique_ptr<Resident> own_;
    Tables* tables_;
};

// norms: one per tensor, or one for all. The last block adds the chunks' sums in order.
struct GradientNorms : ChunkKernel {
    bool per_tensor;
    double *sums, *norms;
    unsigned* ticket;

    struct Shared {
        double warps[threads / warp_size];
        int last;
    };

    GRADFUSE_DEVICE void operator()() const {
        Shared& shared = *shared_memory<Shared>();
        for_chunks([&](int c, const Chunk& chunk) {
            double sum = 0;
            with_storage(table.tensors[chunk.tensor].dtype, [&](auto s) {
                using S = decltype(s);
                for_elements<S, per_access<S>>(table, chunk, [&](std::int64_t i, const auto& access) {
                    Compute<S> v[std::decay_t<decltype(access)>::count];
                    access.read_gradient(i, v);
                    for (const auto x : v) sum += double(x) * double(x);
                });
            });
            sum = block_reduce(sum, shared.warps, Add{}, threads);
            if (threadIdx.x == 0) sums[c] = sum;
        });
        if (!is_last_block(ticket, &shared.last)) return;
        const volatile double* const all = sums;  // written by other blocks in this launch
        if (per_tensor) {
            for (int t = int(threadIdx.x); t < table.tensor_count; t += threads) {
                const TensorRow& row = table.tensors[t];
                double sum = 0;
                for (std::int64_t c = 0; c < row.chunk_count; ++c) sum += all[row.first_chunk + c];
                norms[t] = math::sqrt(sum);
            }
        } else {
            double sum = 0;
            for (int c = int(threadIdx.x); c < table.chunk_count; c += threads) sum += all[c];
            sum = block_reduce(sum, shared.warps, Add{}, threads);
            if (threadIdx.x == 0) *norms = math::sqrt(sum);
        }
    }
};

struct FillZeros : Kernel {
    double* to;
    std::int64_t count;

    GRADFUSE_DEVICE void operator()() const {
        for (std::int64_t i = threadIdx.x; i < count; i += threads) to[i] = 0;
    }
};

struct ClipToNorm : ChunkKernel {
    bool per_tensor, all;
    const double* norms;
    double limit;

    GRADFUSE_DEVICE void operator()() const {
        for_chunks([&](int, const Chunk& chunk) {
            const double norm = norms[per_tensor ? chunk.tensor : 0];
            const double scale = all || math::is_finite(norm) ? clip_factor(norm, limit) : 1;
            if (scale == 1) return;
            with_storage(table.tensors[chunk.tensor].dtype, [&](auto s) {
                using S = decltype(s);
                using T = Compute<S>;
                for_elements<S, per_access<S>>(table, chunk, [&](std::int64_t i, const auto& access) {
                    T v[std::decay_t<decltype(access)>::count];
                    access.read_gradient(i, v);
                    for (T& x : v) x *= T(scale);
                    access.write_gradient(i, v);
                });
            });
        });
    }
};

struct Clamp : ChunkKernel {
    double limit;

    GRADFUSE_DEVICE void operator()() const {
        for_chunks([&](int, const Chunk& chunk) {
            with_storage(table.tensors[chunk.tensor].dtype, [&](auto s) {
                using S = decltype(s);
                using T = Compute<S>;
                const T top = T(limit);
                for_elements<S, per_access<S>>(table, chunk, [&](std::int64_t i, const auto& access) {
                    T v[std::decay_t<decltype(access)>::count];
                    access.read_gradient(i, v);
                    for (T& x : v) x = x > top ? top : x < -top ? -top : x;
                    access.write_gradient(i, v);
                });
            });
        });
    }
};

// A step of one optimizer, for all groups with the same set of state arrays. Each block computes the constants of the
// step from the hyper-parameters and the clocks. The last block advances the clocks.
template <template <class> class Formula, unsigned Slots>
struct Step : ChunkKernel {
    static constexpr int blocks_per_multiprocessor = 4;  // at most 64 registers, so that enough loads are in flight
    static constexpr int most_groups = 4;                // passed as arguments

    GroupStep given[most_groups];
    const GroupStep* groups;  // in device memory, or null
    int group_count;
    Clock* clocks;
    const double* norm;
    double limit;
    bool skip;
    unsigned* ticket;

    struct Constants {
        Update<Formula, float> single;
        Update<Formula, double> precise;
    };

    GRADFUSE_DEVICE void operator()() const {
        const double n = norm ? *norm : 0;
        if (skip && !math::is_finite(n)) return;
        int* const last = shared_memory<int>();
        Constants* const constants = reinterpret_cast<Constants*>(shared_memory<char>() + 16);
        const double clip = norm ? clip_factor(n, limit) : 1;
        for (int k = int(threadIdx.x); k < 2 * group_count; k += threads) {
            const int g = k / 2;
            if (k % 2 == 0) {
                constants[g].single = Update<Formula, float>(group(g), advanced(g), clip);
            } else {
                constants[g].precise = Update<Formula, double>(group(g), advanced(g), clip);
            }
        }
        __syncthreads();
        for_chunks([&](int, const Chunk& chunk) {
            const TensorRow& t = table.tensors[chunk.tensor];
            if (constants[t.group].single.slots != Slots) return;
            switch (t.dtype) {
                case DType::f16:
                    return update<Half>(constants[t.group].single, t, chunk);
                case DType::bf16:
                    return update<BFloat16>(constants[t.group].single, t, chunk);
                case DType::f32:
                    return update<float>(constants[t.group].single, t, chunk);
                default:
                    return update<double>(constants[t.group].precise, t, chunk);
            }
        });
        if (!is_last_block(ticket, last)) return;
        for (int g = int(threadIdx.x); g < group_count; g += threads) {
            if (constants[g].single.slots == Slots) clocks[g] = advanced(g);
        }
    }

private:
    GRADFUSE_DEVICE const GroupStep& group(int g) const { return groups ? groups[g] : given[g]; }
    GRADFUSE_DEVICE Clock advanced(int g) const {
        Clock c = clocks[g];
        ++c.t;
        Formula<float>::advance(group(g).values, c);
        return c;
    }

    template <class S, class T>
    GRADFUSE_DEVICE void update(const Update<Formula, T>& u, const TensorRow& t, const Chunk& chunk) const {
        // Vectors of 4 also for half types, single elements for float64: otherwise the state does not fit in registers.
        for_elements<S, sizeof(T) == 8 ? 1 : 4>(table, chunk, [&](std::int64_t i, const auto& access) {
            constexpr int V = std::decay_t<decltype(access)>::count;
            T p[V], g[V], state[OptimizerInfo::max_slots][V];
            access.read_gradient(i, g);
            access.read_parameter(i, p);
            if constexpr (sizeof(S) == 2) {
                if (t.master) own(t.master).read(i, V, true, p);
            }
#pragma unroll
            for (int k = 0; k < OptimizerInfo::max_slots; ++k) {
                if (Slots >> k & 1) own(static_cast<T*>(t.state[k])).read(i, V, true, state[k]);
            }
            const Slices<T> at{p, g, {state[0], state[1], state[2]}};
#pragma unroll
            for (int j = 0; j < V; ++j) u.template element<Slots>(at, j);
#pragma unroll
            for (int k = 0; k < OptimizerInfo::max_slots; ++k) {
                if (Slots >> k & 1) own(static_cast<T*>(t.state[k])).write(i, V, true, state[k]);
            }
            if constexpr (sizeof(S) == 2) {
                if (t.master) own(t.master).write(i, V, true, p);
            }
            access.write_parameter(i, p);
        });
    }

    // Memory of the optimizer: dense and on a boundary of 16 bytes.
    template <class T>
    GRADFUSE_DEVICE static View<T> own(T* data) {
        return {data, true};
    }
};

template <template <class> class Formula, unsigned Slots>
void launch_step(const ChunkTable& table, const OptimizerStep& step) {
    using Kernel = Step<Formula, Slots>;
    const std::int64_t shared_bytes = 16 + step.group_count * std::int64_t(sizeof(typename Kernel::Constants));
    if (shared_bytes > 48 * 1024 && shared_bytes > most_shared_bytes()) {
        throw std::invalid_argument("groups must fit this GPU's shared memory, got " +
                                    std::to_string(step.group_count) + " of them: give arrays alike one group");
    }
    const TablesOf tables(table);
    Kernel kernel;
    kernel.table = tables->update(table);
    kernel.groups = nullptr;
    if (step.capturable || step.group_count > Kernel::most_groups) {
        kernel.groups = tables->groups(step);
    } else {
        for (int g = 0; g < step.group_count; ++g) kernel.given[g] = step.groups[g];
    }
    kernel.group_count = step.group_count;
    kernel.clocks = step.clocks;
    kernel.norm = step.norm;
    kernel.limit = step.limit;
    kernel.skip = step.skip;
    kernel.ticket = tables->tickets() + 1;
    const std::int64_t blocks = ChunkKernel::blocks(table);
    launch(kernel, blocks > 0 ? blocks : 1, shared_bytes);
}

template <template <class> class Formula, unsigned... Slots>
void step_of_slots(const ChunkTable& table, const OptimizerStep& step, SlotSets<Slots...>) {
    const auto in_use = [&](unsigned slots) {
        for (int g = 0; g < step.group_count; ++g) {
            if (Formula<float>::slots(step.groups[g].values) == slots) return true;
        }
        return false;
    };
    (void)((in_use(Slots) && (launch_step<Formula, Slots>(table, step), false)) || ...);
}

template <template <class> class Formula>
void step_of_formula(const ChunkTable& table, const OptimizerStep& step) {
    step_of_slots<Formula>(table, step, typename Formula<float>::Slots{});
}

template <template <class> class... Formulas>
void step_of(const ChunkTable& table, const OptimizerStep& step, List<Formulas...>) {
    static constexpr void (*rows[])(const ChunkTable&, const OptimizerStep&) = {step_of_formula<Formulas>...};
    rows[step.optimizer](table, step);
}

}  // namespace

DeviceTable Tables::update(const ChunkTable& table) {
    const auto is_wide = [](const Array& a) { return a.dense && reinterpret_cast<std::uintptr_t>(a.data) % 16 == 0; };
    std::vector<TensorRow> rows(std::size_t(table.tensor_count));
    std::vector<char*> gradients(rows.size());
    std::vector<Strides> strides;
    for (int t = 0; t < table.tensor_count; ++t) {
        const Tensor& from = table.tensors[t];
        if (!from.parameter.dense) strides.emplace_back(from.parameter);
        if (!from.gradient.dense) strides.emplace_back(from.gradient);
    }
    captured_ = captured_ || (own_ && is_capturing());
    const Strides* next =
        strides.empty() ? nullptr : strides_.update(strides.data(), std::int64_t(strides.size()), captured_);
    std::int64_t chunk = 0;
    for (int t = 0; t < table.tensor_count; ++t) {
        const Tensor& from = table.tensors[t];
        TensorRow& row = rows[std::size_t(t)];
        std::memset(&row, 0, sizeof row);  // rows are compared byte by byte
        row.parameter = static_cast<char*>(from.parameter.data);
        for (int k = 0; k < OptimizerInfo::max_slots; ++k) row.state[k] = from.state[k];
        row.master = from.master;
        row.parameter_strides = from.parameter.dense ? nullptr : next++;
        row.gradient_strides = from.gradient.dense ? nullptr : next++;
        row.first_chunk = chunk;
        while (chunk < table.chunk_count && table.chunks[chunk].tensor == t) ++chunk;
        row.chunk_count = chunk - row.first_chunk;
        row.group = from.group;
        row.dtype = from.gradient.dtype;
        row.wide = is_wide(from.parameter) && is_wide(from.gradient);
        row.aligned = is_aligned(from.parameter) && is_aligned(from.gradient);
        gradients[std::size_t(t)] = static_cast<char*>(from.gradient.data);
    }
    if (!chunks_.holds(table.chunk_count)) chunks_.update(table.chunks, table.chunk_count);
    return {tensors_.update(rows.data(), table.tensor_count, captured_),
            gradients_.update(gradients.data(), table.tensor_count, captured_), chunks_.data(), table.chunk_count,
            table.tensor_count};
}

}  // namespace GRADFUSE_ISA

void gradient_norms(const ChunkTable& table, bool per_tensor, double* norms) {
    if (table.chunk_count == 0) {
        return launch(FillZeros{{}, norms, per_tensor ? table.tensor_count : 1}, 1);
    }
    const TablesOf tables(table);
    const GradientNorms kernel{
        {{}, tables->update(table)}, per_tensor, tables->sums(table.chunk_count), norms, tables->tickets()};
    launch(kernel, kernel.blocks(table), sizeof(GradientNorms::Shared));
}

void clip_to_norm(const ChunkTable& table, bool per_tensor, const double* norms, double limit, bool all) {
    const TablesOf tables(table);
    const ClipToNorm kernel{{{}, tables->update(table)}, per_tensor, all, norms, limit};
    launch(kernel, kernel.blocks(table));
}

void clamp(const ChunkTable& table, double limit) {
    const TablesOf tables(table);
    const Clamp kernel{{{}, tables->update(table)}, limit};
    launch(kernel, kernel.blocks(table));
}

void optimizer_step(const ChunkTable& table, const OptimizerStep& step) { step_of(table, step, Optimizers{}); }

void set_groups(const ChunkTable& table, const OptimizerStep& step) { TablesOf(table)->groups(step); }

}  // namespace gradfuse::cuda
