#include "core/backend.h"

#include "cuda/kernels.h"
#include "cuda/runtime.h"

namespace smelt::cuda {

const Backend& backend() {
    static const Backend table = {"cuda", SMELT_OPERATIONS(SMELT_ENTER)};
    return table;
}

}  // namespace smelt::cuda
