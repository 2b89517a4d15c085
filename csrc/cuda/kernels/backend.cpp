#include "core/backend.h"

#include "core/devices.h"
#include "cuda/kernels.h"

namespace gradfuse::devices {

const Backend& backend() {
    using namespace cuda;
    static const Backend table = {"cuda", GRADFUSE_OPERATIONS(GRADFUSE_ENTER)};
    return table;
}

}  // namespace gradfuse::devices
