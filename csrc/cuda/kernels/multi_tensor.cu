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

// A step of one optimizer, for all groups with the same set of state arrays. Each block computes the constants of the
// step from the hyper-parameters and the clocks. The last block advances the clocks.
template <template <class> class Formula, unsigned Slots>
struct Step : ChunkKernel {
    static constexpr int most_groups = 4;  // passed as arguments

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
        int* const last = own_shared<int>();
        Constants* const constants = reinterpret_cast<Constants*>(own_shared<char>() + 16);
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
        for_chunks([&](const Piece& piece) {
            const Constants& of_group = constants[piece.row.group];
            if (of_group.single.slots != Slots) return;
            switch (piece.row.dtype) {
                case DType::f16:
                    return update<Half>(of_group.single, piece);
                case DType::bf16:
                    return update<BFloat16>(of_group.single, piece);
                case DType::f32:
                    return update<float>(of_group.single, piece);
                default:
                    return update<double>(of_group.precise, piece);
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
    GRADFUSE_DEVICE void update(const Update<Formula, T>& u, const Piece& piece) const {
        const TensorRow& t = piece.row;
        // Vectors of 4 also for half types, single elements for float64: otherwise the state does not fit in registers.
        for_elements<S, sizeof(T) == 8 ? 1 : 4>(piece, [&](std::int64_t i, const auto& access) {
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
    const std::int64_t shared_bytes =
        Kernel::piece_bytes + 16 + step.group_count * std::int64_t(sizeof(typename Kernel::Constants));
    if (shared_bytes > 48 * 1024 && shared_bytes > most_shared_bytes()) {
        throw std::invalid_argument("groups must fit this GPU's shared memory, got " +
                                    std::to_string(step.group_count) + " of them: give arrays alike one group");
    }
    Tables& tables = tables_of(table);
    Kernel kernel;
    kernel.table = tables.update(table);
    kernel.groups = nullptr;
    if (step.capturable || step.group_count > Kernel::most_groups) {
        kernel.groups = tables.groups(step);
    } else {
        for (int g = 0; g < step.group_count; ++g) kernel.given[g] = step.groups[g];
    }
    kernel.group_count = step.group_count;
    kernel.clocks = step.clocks;
    kernel.norm = step.norm;
    kernel.limit = step.limit;
    kernel.skip = step.skip;
    kernel.ticket = tables.ticket();
    launch(kernel, table.chunk_count > 0 ? table.chunk_count : 1, shared_bytes);
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
