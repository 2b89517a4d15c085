// CUDA's functions for the backend table. See core/backend.h.
#pragma once

#include "core/backend.h"

namespace gradfuse::cuda {

GRADFUSE_OPERATIONS(GRADFUSE_DECLARE)

}  // namespace gradfuse::cuda
