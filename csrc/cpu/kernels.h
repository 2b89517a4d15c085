// The CPU's functions for the backend table, for this translation unit's instruction set. See core/backend.h.
#pragma once

#include "core/backend.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

GRADFUSE_OPERATIONS(GRADFUSE_DECLARE)

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
