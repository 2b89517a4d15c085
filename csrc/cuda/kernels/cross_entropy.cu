// Cross-entropy and its gradient, in one pass over the logits.
#include "cuda/kernels.h"
#include "cuda/reduce_map.cuh"
#include "cuda/total.cuh"
#include "formulas/rows/cross_entropy.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

// For a mean over the rows that count: {1 / s, s}, where s is the sum of their labels' weights.
struct LabelWeights : Kernel {
    Numbers labels, weights;
    CrossEntropyParameters p;
    std::int64_t rows;
    double *sums, *rate;
    unsigned* ticket;

    std::int64_t blocks() const { return rows > 0 ? blocks_for(rows, 8 * threads, threads) : 1; }

    GRADFUSE_DEVICE void operator()() const {
        double sum = 0;
        for (std::int64_t i = std::int64_t(blockIdx.x) * threads + threadIdx.x; i < rows;
             i += std::int64_t(gridDim.x) * threads) {
            const double label = labels.get(i);
            const bool counts = label != p.ignore && label >= 0 && label < p.classes;
            sum += counts ? weights.get(std::int64_t(label)) : 0;
        }
        sum = of_block(sum);
        if (threadIdx.x == 0) sums[blockIdx.x] = sum;
        if (!is_last_block(ticket, shared_memory<int>())) return;
        const volatile double* const all = sums;  // written by other blocks in this launch
        sum = of_block(threadIdx.x < gridDim.x ? all[threadIdx.x] : 0);
        if (threadIdx.x == 0) rate[0] = 1 / sum, rate[1] = sum;
    }

private:
    static GRADFUSE_DEVICE double of_block(double sum) {
        return block_reduce(sum, shared_memory<void>(), Add{}, threads);
    }
};

struct AddLosses : NoStages {
    Total total;
    GRADFUSE_DEVICE void end(int groups) const { total.store(groups); }
};

template <class S, class F>
void run(const F& f, const Grouping& grouping, const ReduceMapArrays& a, const AddLosses& stages) {
    const Columns<S, 1> weights(grouping, a.column, false, 1);
    reduce_map<false, true, S>(f, grouping, a, weights, a.column[0] ? nullptr : &stages, stages);
}

}  // namespace

}  // namespace GRADFUSE_ISA

void cross_entropy(const CrossEntropyOperation& op, const CrossEntropyArrays& arrays) {
    const Dense logits(*arrays.logits), target(*arrays.target);
    const DenseOutput dlogits(*arrays.dlogits), loss(*arrays.loss);
    const auto weight = dense_or_none<Dense>(arrays.weight);
    const Grouping grouping = op.rows;
    const std::int64_t rows = grouping.count();
    const bool labels = target->dtype == DType::i32 || target->dtype == DType::i64;
    const bool each = op.reduction == Reduction::none, mean = op.reduction == Reduction::mean;
    const bool counted = mean && labels && (weight || op.parameters.ignore != 0.5);
    const double scale = mean ? 1 / double(rows) : 1;

    double* const scratch =
        each ? nullptr : allocate_array<double>(rows + 2);  // the losses, then the rate and the denominator
    const Array rate = dense_doubles(scratch + (each ? 0 : rows), 1), losses = dense_doubles(scratch, rows);
    ReduceMapArrays a;
    a.in[0] = &*logits, a.out = &*dlogits, a.column[0] = pointer_to(weight);
    a.group_out[0] = each ? &*loss : &losses;
    const GroupNumbers the_rate{counted ? &rate : nullptr, scale, 1};
    if (labels) {
        a.group_in[0] = {&*target, 0, 0}, a.group_in[3] = the_rate;
    } else {
        a.in[1] = &*target, a.group_in[0] = the_rate;
    }
    if (counted) {
        LabelWeights kernel{
            {},      Numbers(a.group_in[0]), Numbers({a.column[0], 1, 0}), op.parameters, rows, nullptr, scratch + rows,
            ticket()};
        kernel.sums = allocate_array<double>(kernel.blocks());
        launch(kernel, kernel.blocks(), kernel.threads / warp_size * std::int64_t(sizeof(double)));
    }
    AddLosses stages;
    if (!each) {
        double* const denominator = counted ? scratch + rows + 1 : nullptr;
        stages.total = {scratch, rows, scale, denominator, DoubleView(&*loss), ticket()};
    }
    if (logits->size == 0) store_without_numbers(stages.total);
    with_storage(logits->dtype, [&](auto storage) {
        using S = decltype(storage);
        using T = Compute<S>;
        if (labels) {
            run<S>(CrossEntropyOfLabels<T>(op.parameters), grouping, a, stages);
        } else {
            run<S>(CrossEntropyOfProbabilities<T>(op.parameters), grouping, a, stages);
        }
    });
    dlogits.commit();
    loss.commit();
}

}  // namespace gradfuse::cuda
