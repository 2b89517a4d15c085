#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Hardtanh {
    static constexpr FormulaInfo info{"hardtanh",
                                      Saves::x,
                                      "min(max(x, min_val), max_val)",
                                      "Collobert 2004; torch.nn.functional.hardtanh",
                                      {{"min_val", -1.0, finite}, {"max_val", 1.0, finite}},
                                      true};

    T min_val, max_val;

    explicit GRADFUSE_HD Hardtanh(const double* p) : min_val(T(p[0])), max_val(T(p[1])) {}

    GRADFUSE_HD T forward(T x) const { return math::min(math::max(x, min_val), max_val); }
    GRADFUSE_HD T backward(T dy, T x) const { return (x <= min_val) | (x >= max_val) ? T(0) : dy; }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
