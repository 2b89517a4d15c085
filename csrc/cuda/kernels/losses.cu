#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/strides.cuh"
#include "cuda/total.cuh"
#include "cuda/view.cuh"
#include "formulas/losses/list.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

// The gradients times `factor`, and the losses, which are stored or summed per block.
template <class F, class S>
struct Loss : Kernel {
    using T = Compute<S>;
    static constexpr int V = 8;

    F f;
    View<S> pred, target, dpred;
    View<T> losses;
    bool each;
    T factor;
    double* sums;  // per block
    Total total;
    std::int64_t size;

    GRADFUSE_DEVICE void operator()() const {
        double sum = 0;
        for (std::int64_t i = (std::int64_t(blockIdx.x) * threads + threadIdx.x) * V; i < size;
             i += std::int64_t(gridDim.x) * threads * V) {
            const int n = size - i < V ? int(size - i) : V;
            T p[V], t[V], l[V];
            pred.read(i, n, true, p);
            target.read(i, n, true, t);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                l[j] = f.loss(p[j], t[j]);
                p[j] = factor * f.gradient(p[j], t[j]);
                if (j < n) sum += double(l[j]);
            }
            if (each) losses.write(i, n, true, l);
            dpred.write(i, n, true, p);
        }
        if (each) return;
        sum = block_reduce(sum, shared_memory<void>(), Add{}, threads);
        if (threadIdx.x == 0) sums[blockIdx.x] = sum;
        total.store();
    }
};

constexpr std::int64_t scratch_bytes = Kernel::threads / warp_size * std::int64_t(sizeof(double));

template <template <class> class Formula>
void run(const double* parameters, Reduction reduction, const Array& pred_, const Array& target_, const Array& loss,
         const Array& dpred) {
    const Dense pred(pred_), target(target_);
    const double scale = reduction == Reduction::mean ? 1 / double(pred->size) : 1;
    const bool each = reduction == Reduction::none;
    const std::int64_t blocks = blocks_for(pred->size, Kernel::threads * 8, 1024);
    double* const sums = each ? nullptr : allocate_array<double>(blocks);
    const Total total = each ? Total() : Total{sums, blocks, scale, nullptr, DoubleView(&loss), ticket()};
    if (blocks == 0) return store_without_numbers(total);
    with_storage(pred->dtype, [&](auto storage) {
        using S = decltype(storage);
        using T = Compute<S>;
        const Formula<T> f(parameters);
        const View<T> losses = each ? View<T>(loss) : View<T>();
        const Loss<Formula<T>, S> kernel{{},   f,        View<S>(pred), View<S>(target), View<S>(dpred), losses,
                                         each, T(scale), sums,          total,           pred->size};
        launch(kernel, blocks, scratch_bytes);
    });
}

template <template <class> class... Formulas>
void run_row(List<Formulas...>, const Formula& f, Reduction reduction, const Array& pred, const Array& target,
             const Array& loss, const Array& dpred) {
    static constexpr void (*rows[])(const double*, Reduction, const Array&, const Array&, const Array&,
                                    const Array&) = {run<Formulas>...};
    rows[f.row](f.parameters, reduction, pred, target, loss, dpred);
}

}  // namespace

}  // namespace GRADFUSE_ISA

void loss(const Formula& f, Reduction reduction, const Array& pred, const Array& target, const Array& loss,
          const Array& dpred) {
    run_row(Losses{}, f, reduction, pred, target, loss, dpred);
}

}  // namespace gradfuse::cuda
