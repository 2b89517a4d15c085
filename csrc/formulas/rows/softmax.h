#pragma once

#include "formulas/rows/row.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Softmax {
    static constexpr RowInfo info{"softmax", Saves::y, "exp(x - max) / sum(exp(x - max))",
                                  "Bridle 1990; torch.softmax"};

    struct Forward : Exponentials<T> {
        using typename Exponentials<T>::Local;
        using typename Exponentials<T>::Record;
        struct Constants {
            T factor;
        };
        static constexpr bool keeps = true;

        explicit Forward(const double*) {}

        GRADFUSE_HD Constants constants(const Record& whole, Local l, Empty, std::int64_t) const {
            return {T(this->weight(l.top, whole.top) / whole.e)};
        }
        template <class P>
        GRADFUSE_HD Values<T, 1> map(Constants c, P, T e) const {
            return {e * c.factor};
        }
    };

    // dx = (dy - sum(dy y)) y
    struct Backward : RowSum<T> {
        using typename RowSum<T>::Sums;
        using typename RowSum<T>::Constants;

        explicit Backward(const double*) {}

        template <class P>
        GRADFUSE_HD void add(Sums& s, Empty, P, T, T dy, T y) const {
            s.total += dy * y;
        }
        template <class P>
        GRADFUSE_HD Values<T, 1> map(Constants c, P, T dy, T y) const {
            return {(dy - c.total) * y};
        }
    };
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
