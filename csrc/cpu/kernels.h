// The CPU's functions for the backend table, of this translation unit's instruction set. See core/backend.h.
#pragma once

#include "core/backend.h"

namespace smelt {
inline namespace SMELT_ISA {

SMELT_OPERATIONS(SMELT_DECLARE)

}  // namespace SMELT_ISA
}  // namespace smelt
