// Clipping by norm (Pascanu, Mikolov and Bengio 2013).
#pragma once

#include "core/config.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// The factor that scales `norm` down to `limit`: exactly 1 if norm <= limit, NaN for a NaN.
GRADFUSE_HD double clip_factor(double norm, double limit) { return norm <= limit ? 1 : limit / norm; }

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
