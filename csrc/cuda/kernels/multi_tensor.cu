// Optimizers and gradient clipping.
#include <algorithm>
#include <cmath>
#include <optional>
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

Tables& tables_of(const ChunkTable& table) {
    if (!*table.resident) *table.resident = std::make_unique<Tables>(table.lasting);
    return static_cast<Tables&>(**table.resident);
}

// norms: one per tensor, or one for all. sums: one per chunk, or one per block. The last block adds them in order.
struct GradientNorms : ChunkKernel {
    // At least 48 KB in flight on each of 132 multiprocessors. It is the same for all GPUs, because sums depend on it.
    static constexpr std::int64_t most_chunk_blocks = 1056;
    bool per_tensor;
    double *sums, *norms;
    unsigned* ticket;

    struct Shared {
        double warps[threads / warp_size];
        int last;
    };

    static std::int64_t blocks(const ChunkTable& t) {
        return t.chunk_count < most_chunk_blocks ? t.chunk_count : most_chunk_blocks;
    }

    GRADFUSE_DEVICE void operator()() const {
        Shared& shared = *own_shared<Shared>();
        const auto write = [&](double sum, int at) {
            sum = block_reduce(sum, shared.warps, Add{}, threads);
            if (threadIdx.x == 0) sums[at] = sum;
        };
        double sum = 0;
        for_chunks([&](const Piece& piece) {
            with_storage(piece.row.dtype, [&](auto s) {
                for_gradients<decltype(s), false>(piece, [&](const auto& v) {
                    for (const auto x : v) sum += double(x) * double(x);
                });
            });
            if (per_tensor) write(sum, piece.chunk), sum = 0;
        });
        if (!per_tensor) write(sum, int(blockIdx.x));
        if (!is_last_block(ticket, &shared.last)) return;
        const volatile double* const all = sums;  // written by other blocks in this launch
        if (per_tensor) {
            for (int t = int(threadIdx.x); t < table.tensor_count; t += threads) {
                const TensorRow row = table.row(t);
                double total = 0;
                for (int c = 0; c < row.chunk_count(); ++c) total += all[row.first_chunk + c];
                norms[t] = math::sqrt(total);
            }
        } else {
            double total = 0;
            for (int b = int(threadIdx.x); b < int(gridDim.x); b += threads) total += all[b];
            total = block_reduce(total, shared.warps, Add{}, threads);
            if (threadIdx.x == 0) *norms = math::sqrt(total);
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
        for_chunks([&](const Piece& piece) {
            const double norm = norms[per_tensor ? piece.tensor : 0];
            const double scale = all || math::is_finite(norm) ? clip_factor(norm, limit) : 1;
            if (scale == 1) return;
            with_storage(piece.row.dtype, [&](auto s) {
                using S = decltype(s);
                const auto factor = Compute<S>(scale);
                for_gradients<S, true>(piece, [&](auto& v) {
                    for (auto& x : v) x *= factor;
                });
            });
        });
    }
};

struct Clamp : ChunkKernel {
    double limit;

    GRADFUSE_DEVICE void operator()() const {
        for_chunks([&](const Piece& piece) {
            with_storage(piece.row.dtype, [&](auto s) {
                using S = decltype(s);
                const auto top = Compute<S>(limit);
                for_gradients<S, true>(piece, [&](auto& v) {
                    for (auto& x : v) x = x > top ? top : x < -top ? -top : x;
                });
            });
        });
    }
};

template <template <class> class Formula>
struct Constants {
    Update<Formula, float> single;
    Update<Formula, double> precise;

    template <class T>
    GRADFUSE_DEVICE const Update<Formula, T>& of() const {
        if constexpr (sizeof(T) == 8) {
            return precise;
        } else {
            return single;
        }
    }
};

// What the constants of a step are computed from.
template <template <class> class Formula>
struct Settings {
    static constexpr int most_groups = 4;  // passed as arguments

    GroupStep given[most_groups];
    const GroupStep* groups;  // in device memory, or null
    int group_count;
    Clock* clocks;
    const double* norm;
    double limit;
    bool skip;

    Settings(const OptimizerStep& step, Tables& tables)
        : groups(nullptr),
          group_count(step.group_count),
          clocks(step.clocks),
          norm(step.norm),
          limit(step.limit),
          skip(step.skip) {
        if (step.capturable || step.group_count > most_groups) {
            groups = tables.groups(step);
        } else {
            for (int g = 0; g < step.group_count; ++g) given[g] = step.groups[g];
        }
    }

    GRADFUSE_DEVICE bool is_skipped() const { return skip && !math::is_finite(norm ? *norm : 0); }
    GRADFUSE_DEVICE const GroupStep& group(int g) const { return groups ? groups[g] : given[g]; }
    GRADFUSE_DEVICE Clock advanced(int g) const {
        Clock c = clocks[g];
        ++c.t;
        Formula<float>::advance(group(g).values, c);
        return c;
    }
    // Computes the constants of all groups, with all threads of the block.
    GRADFUSE_DEVICE void compute(Constants<Formula>* to) const {
        const double clip = norm ? clip_factor(*norm, limit) : 1;
        for (int k = int(threadIdx.x); k < 2 * group_count; k += int(blockDim.x)) {
            const int g = k / 2;
            if (k % 2 == 0) {
                to[g].single = Update<Formula, float>(group(g), advanced(g), clip);
            } else {
                to[g].precise = Update<Formula, double>(group(g), advanced(g), clip);
            }
        }
        __syncthreads();
    }
};

// Memory of the optimizer: dense and on a boundary of 16 bytes.
template <class T>
GRADFUSE_DEVICE View<T> own(T* data) {
    return {data, true};
}

// The step of the elements from `i` on that one access reads.
template <unsigned Slots, class S, template <class> class Formula, class T, class Access>
GRADFUSE_DEVICE void update_elements(const Update<Formula, T>& u, const TensorRow& t, std::int64_t i,
                                     const Access& access) {
    constexpr int V = Access::count;
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
}

// A step of one optimizer, for all groups with the same set of state arrays. Each block computes the constants. The
// last block advances the clocks.
template <template <class> class Formula, unsigned Slots>
struct Step : ChunkKernel {
    Settings<Formula> settings;
    unsigned* ticket;

    GRADFUSE_DEVICE void operator()() const {
        if (settings.is_skipped()) return;
        int* const last = own_shared<int>();
        auto* const constants = reinterpret_cast<Constants<Formula>*>(own_shared<char>() + 16);
        settings.compute(constants);
        for_chunks([&](const Piece& piece) {
            const Constants<Formula>& of_group = constants[piece.row.group];
            if (of_group.single.slots != Slots) return;
            with_storage(piece.row.dtype, [&](auto s) {
                using S = decltype(s);
                using T = Compute<S>;
                // Vectors of 4 also for half types, single elements for float64: otherwise the state does not fit in
                // registers.
                for_elements<S, sizeof(T) == 8 ? 1 : 4>(piece, [&](std::int64_t i, const auto& access) {
                    update_elements<Slots, S>(of_group.template of<T>(), piece.row, i, access);
                });
            });
        });
        if (!is_last_block(ticket, last)) return;
        for (int g = int(threadIdx.x); g < settings.group_count; g += threads) {
            if (constants[g].single.slots == Slots) settings.clocks[g] = settings.advanced(g);
        }
    }
};

// The same in two launches, for large arrays: all constants, then a vector of elements per thread.
template <template <class> class Formula>
struct Prepare : Kernel {
    Settings<Formula> settings;
    Constants<Formula>* constants;
    static constexpr unsigned no_slots = ~0u;  // of a step that is skipped

    GRADFUSE_DEVICE void operator()() const {
        const bool skipped = settings.is_skipped();
        settings.compute(constants);
        for (int g = int(threadIdx.x); g < settings.group_count; g += threads) {
            if (skipped) {
                constants[g].single.slots = no_slots;
            } else {
                settings.clocks[g] = settings.advanced(g);
            }
        }
    }
};
template <template <class> class Formula, unsigned Slots, class S>
struct LargeStep : Kernel {
    static constexpr int blocks_per_multiprocessor = 4, V = 4;
    DeviceTable table;
    const Constants<Formula>* constants;
    bool surely;  // all groups have these slots, and no step is skipped: the loads need not wait for the constants

    GRADFUSE_HD static std::int64_t blocks_of(const TensorRow& row) {
        return (row.size + threads * V - 1) / (threads * V);
    }
    std::int64_t blocks() const {
        std::int64_t all = 0;
        for (int t = 0; t < table.tensor_count; ++t) all += blocks_of(table.given[t]);
        return all;
    }

    GRADFUSE_DEVICE void operator()() const {
        std::int64_t block = blockIdx.x;
        int t = 0;
        for (; block >= blocks_of(table.given[t]); ++t) block -= blocks_of(table.given[t]);
        const TensorRow& row = table.given[t];
        const auto& u = constants[row.group].single;
        if (!surely && u.slots != Slots) return;
        char* const gradient = table.given_gradients[t];
        const std::int64_t i = (block * threads + threadIdx.x) * V;
        if (i + V <= row.size) return update_elements<Slots, S>(u, row, i, Vectors<S, V>(row, gradient));
        for (std::int64_t j = i; j < row.size; ++j) update_elements<Slots, S>(u, row, j, Vectors<S, 1>(row, gradient));
    }
};

// The dtype of all tensors if a thread should take a vector of elements: they are arguments, large, and in whole
// vectors. Smaller arrays are as fast in chunks, in one launch.
std::optional<DType> dtype_of_large(const DeviceTable& table) {
    if (table.rows || table.chunk_count <= 8 * multiprocessors()) return std::nullopt;
    const DType dtype = table.given[0].dtype;
    if (dtype == DType::f64) return std::nullopt;
    for (int t = 0; t < table.tensor_count; ++t) {
        if (table.given[t].dtype != dtype || !table.given[t].wide) return std::nullopt;
    }
    return dtype;
}

template <template <class> class Formula, unsigned Slots>
void launch_large_step(const DeviceTable& table, DType dtype, const Constants<Formula>* constants, bool surely) {
    with_storage(dtype, [&](auto s) {
        using S = decltype(s);
        if constexpr (!std::is_same_v<S, double>) {
            const LargeStep<Formula, Slots, S> kernel{{}, table, constants, surely};
            launch(kernel, kernel.blocks());
        }
    });
}

template <template <class> class Formula, unsigned Slots>
void launch_step(const DeviceTable& table, const OptimizerStep& step, Tables& tables) {
    const std::int64_t shared_bytes =
        ChunkKernel::piece_bytes + 16 + step.group_count * std::int64_t(sizeof(Constants<Formula>));
    if (shared_bytes > 48 * 1024 && shared_bytes > most_shared_bytes()) {
        throw std::invalid_argument("groups must fit this GPU's shared memory, got " +
                                    std::to_string(step.group_count) + " of them: give arrays alike one group");
    }
    const Step<Formula, Slots> kernel{{{}, table}, {step, tables}, ticket()};
    launch(kernel, table.chunk_count > 0 ? table.chunk_count : 1, shared_bytes);
}

template <template <class> class Formula, unsigned... Slots>
void step_of_slots(const ChunkTable& host_table, const OptimizerStep& step, SlotSets<Slots...>) {
    const auto slots_of = [](const GroupStep& g) { return Formula<float>::slots(g.values); };
    const GroupStep *const first = step.groups, *const last = first + step.group_count;
    const auto in_use = [&](unsigned slots) {
        return std::any_of(first, last, [&](const GroupStep& g) { return slots_of(g) == slots; });
    };
    Tables& tables = tables_of(host_table);
    const DeviceTable table = tables.update(host_table);
    if (const auto dtype = dtype_of_large(table)) {
        auto* const constants = tables.constants<Constants<Formula>>(step.group_count);
        launch(Prepare<Formula>{{}, {step, tables}, constants}, 1);
        const bool surely =
            !step.skip && std::all_of(first, last, [&](const GroupStep& g) { return slots_of(g) == slots_of(*first); });
        (void)((in_use(Slots) && (launch_large_step<Formula, Slots>(table, *dtype, constants, surely), false)) || ...);
    } else {
        (void)((in_use(Slots) && (launch_step<Formula, Slots>(table, step, tables), false)) || ...);
    }
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

DeviceTable Tables::written(const ChunkTable& table) {
    const auto is_wide = [](const Array& a) { return a.dense && reinterpret_cast<std::uintptr_t>(a.data) % 16 == 0; };
    std::vector<TensorRow> rows(std::size_t(table.tensor_count));
    std::vector<char*> gradients(rows.size());
    std::vector<Strides> strides;
    for (int t = 0; t < table.tensor_count; ++t) {
        const Tensor& from = table.tensors[t];
        if (!from.parameter.dense) strides.emplace_back(from.parameter);
        if (!from.gradient.dense) strides.emplace_back(from.gradient);
    }
    const Strides* next = strides.empty() ? nullptr : strides_.update(strides.data(), std::int64_t(strides.size()));
    int chunk = 0;
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
        for (; chunk < table.chunk_count && table.chunks[chunk].tensor == t; ++chunk)
            row.size += table.chunks[chunk].count;
        row.group = from.group;
        row.dtype = from.gradient.dtype;
        row.wide = is_wide(from.parameter) && is_wide(from.gradient);
        row.aligned = is_aligned(from.parameter) && is_aligned(from.gradient);
        gradients[std::size_t(t)] = static_cast<char*>(from.gradient.data);
    }
    DeviceTable to;
    to.tensor_count = table.tensor_count;
    to.chunk_count = table.chunk_count;
    if (table.tensor_count <= DeviceTable::most_given) {
        std::copy(rows.begin(), rows.end(), to.given);
        std::copy(gradients.begin(), gradients.end(), to.given_gradients);
        return to;
    }
    std::vector<int> first_chunks;
    for (const TensorRow& row : rows) first_chunks.push_back(row.first_chunk);
    to.first_chunks = first_chunks_.update(first_chunks.data(), table.tensor_count);
    to.rows = rows_.update(rows.data(), table.tensor_count);
    to.gradients = gradients_.update(gradients.data(), table.tensor_count);
    return to;
}

}  // namespace GRADFUSE_ISA

void gradient_norms(const ChunkTable& table, bool per_tensor, double* norms) {
    if (table.chunk_count == 0) {
        return launch(FillZeros{{}, norms, per_tensor ? table.tensor_count : 1}, 1);
    }
    Tables& tables = tables_of(table);
    const std::int64_t blocks = GradientNorms::blocks(table);
    const GradientNorms kernel{
        {{}, tables.update(table)}, per_tensor, tables.sums(per_tensor ? table.chunk_count : blocks), norms, ticket()};
    launch(kernel, blocks, kernel.piece_bytes + std::int64_t(sizeof(GradientNorms::Shared)));
}

void clip_to_norm(const ChunkTable& table, bool per_tensor, const double* norms, double limit, bool all) {
    Tables& tables = tables_of(table);
    launch(ClipToNorm{{{}, tables.update(table)}, per_tensor, all, norms, limit}, table.chunk_count,
           ChunkKernel::piece_bytes);
}

void clamp(const ChunkTable& table, double limit) {
    Tables& tables = tables_of(table);
    launch(Clamp{{{}, tables.update(table)}, limit}, table.chunk_count, ChunkKernel::piece_bytes);
}

void optimizer_step(const ChunkTable& table, const OptimizerStep& step) { step_of(table, step, Optimizers{}); }

void set_groups(const ChunkTable& table, const OptimizerStep& step) { tables_of(table).groups(step); }

}  // namespace gradfuse::cuda
