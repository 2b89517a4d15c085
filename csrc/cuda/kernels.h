// CUDA's functions for the backend table. See core/backend.h.
#pragma once

#include "core/backend.h"

namespace smelt::cuda {

SMELT_OPERATIONS(SMELT_DECLARE)

}  // namespace smelt::cuda
