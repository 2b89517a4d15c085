#include "core/backend.h"

#include "cuda/kernels.h"
#include "cuda/runtime.h"

namespace gradfuse::cuda {

const Backend& backend() {
    static const Backend table = {"cuda", GRADFUSE_OPERATIONS(GRADFUSE_ENTER)};
    return table;
}

}  // namespace gradfuse::cuda
