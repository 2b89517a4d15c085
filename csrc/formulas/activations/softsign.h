#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Softsign {
    static constexpr FormulaInfo info{"softsign", Saves::x, "x / (1 + abs(x))",
                                      "Bergstra, Desjardins, Lamblin and Bengio 2009; torch.nn.functional.softsign"};

    explicit GRADFUSE_HD Softsign(const double*) {}

    GRADFUSE_HD T forward(T x) const { return x / (1 + math::abs(x)); }
    GRADFUSE_HD T backward(T dy, T x) const {
        const T d = 1 / (1 + math::abs(x));
        return dy * (d * d);
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
