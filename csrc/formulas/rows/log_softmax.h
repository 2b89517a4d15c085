#pragma once

#include "formulas/rows/row.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct LogSoftmax {
    static constexpr RowInfo info{"log_softmax", Saves::y, "x - max - log(sum(exp(x - max)))", "torch.log_softmax"};

    struct Forward : Exponentials<T> {
        using typename Exponentials<T>::Local;
        using typename Exponentials<T>::Record;
        struct Constants {
            T top, log_sum;
        };

        explicit Forward(const double*) {}

        GRADFUSE_HD Constants constants(const Record& whole, Local, Empty, std::int64_t) const {
            return {T(whole.top), T(math::log(whole.e))};
        }
        template <class P>
        GRADFUSE_HD Values<T, 1> map(Constants c, P, T x) const {
            return {(x - c.top) - c.log_sum};
        }
    };

    // dx = dy - exp(y) sum(dy)
    struct Backward : RowSum<T> {
        using typename RowSum<T>::Sums;
        using typename RowSum<T>::Constants;

        explicit Backward(const double*) {}

        template <class P>
        GRADFUSE_HD void add(Sums& s, Empty, P, T, T dy, T) const {
            s.total += dy;
        }
        template <class P>
        GRADFUSE_HD Values<T, 1> map(Constants c, P, T dy, T y) const {
            return {dy - math::exp(y) * c.total};
        }
    };
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
