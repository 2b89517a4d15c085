#include "cpu/elementwise.h"
#include "cpu/heap.h"
#include "cpu/kernels.h"
#include "cpu/lanes.h"
#include "formulas/losses/list.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

// Returns the sum of a tile's losses and writes `factor` times their gradients. Writes the losses too, unless their
// pointer is null. dpred may be pred.
template <class T>
using LossLoop = double (*)(const double* parameters, T factor, const T* pred, const T* target, T* losses, T* dpred,
                            std::int64_t n);

template <template <class> class Formula, class T>
double loss_loop(const double* parameters, T factor, const T* pred, const T* target, T* losses, T* dpred,
                 std::int64_t n) {
    const Formula<T> f(parameters);
    if (losses) {
        for_lanes(n, [&](std::int64_t i) GRADFUSE_INLINE { losses[i] = f.loss(pred[i], target[i]); });
    }
    constexpr int L = lanes_of<double, 1>;
    alignas(64) double sums[L] = {};
    in_lanes<T, L>(n, [&](int l, std::int64_t i, T, bool there, auto) GRADFUSE_INLINE {
        const T p = there ? pred[i] : T(0), t = there ? target[i] : T(0);
        sums[l] += there ? double(f.loss(p, t)) : 0.0;
        const T gradient = factor * f.gradient(p, t);
        if (there) dpred[i] = gradient;
    });
    return join_lanes(sums, [](const auto& a, const auto& b) GRADFUSE_INLINE { return a + b; });
}

template <class T, template <class> class... Formulas>
LossLoop<T> loop_of(int row, List<Formulas...>) {
    static constexpr LossLoop<T> rows[] = {loss_loop<Formulas, T>...};
    return rows[row];
}

}  // namespace

void loss(const Formula& f, Reduction reduction, const Array& pred, const Array& target, const Array& loss,
          const Array& dpred) {
    const std::int64_t n = pred.size, blocks = (n + block_size - 1) / block_size;
    const double scale = reduction == Reduction::mean ? 1 / double(n) : 1;
    const bool each = reduction == Reduction::none;
    const Heap<double> partial(blocks);
    with_compute_type(pred.dtype, [&](auto t) {
        using T = decltype(t);
        const auto loop = loop_of<T>(f.row, Losses{});
        const Reader<T> read_pred(pred), read_target(target);
        const Writer<T> write_loss(loss), write_dpred(dpred);
        const auto block = [&](std::int64_t k) {
            Buffer<T> a, b, c;
            double total = 0;
            const std::int64_t left = n - k * block_size;
            for_tiles(k * block_size, left < block_size ? left : block_size, false,
                      [&](std::int64_t start, std::int64_t count) {
                          const T* const p = read_pred(start, count, a.data);
                          const T* const q = read_target(start, count, b.data);
                          T* const l = each ? write_loss(start, c.data) : nullptr;
                          T* const d = write_dpred(start, a.data);
                          total += loop(f.parameters, T(scale), p, q, l, d, count);
                          write_dpred.commit(start, count, d);
                          if (each) write_loss.commit(start, count, l);
                      });
            partial[k] = total;
        };
        if (blocks <= 2) {
            for (std::int64_t k = 0; k < blocks; ++k) block(k);
        } else {
            parallel(blocks, block);
        }
    });
    if (each) return;
    double total = 0;
    for (std::int64_t k = 0; k < blocks; ++k) total += partial[k];
    total *= scale;
    Writer<double>(loss).store(0, 1, &total);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
