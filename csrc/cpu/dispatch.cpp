// The instruction sets of this build that this processor supports.
#include "core/backend.h"

namespace gradfuse {

namespace baseline {
extern const Backend backend;
}
#if GRADFUSE_HAS_AVX2
namespace avx2 {
extern const Backend backend;
}
#endif
#if GRADFUSE_HAS_AVX512
namespace avx512 {
extern const Backend backend;
}
#endif

const Backend* const* backends(int& count) {
    static const Backend* found[3];
    int n = 0;
    found[n++] = &baseline::backend;
#if GRADFUSE_HAS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[n++] = &avx2::backend;
#endif
#if GRADFUSE_HAS_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
        found[n++] = &avx512::backend;
    }
#endif
    count = n;
    return found;
}

}  // namespace gradfuse
