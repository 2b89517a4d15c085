#include "core/backend.h"

#include "cpu/kernels.h"

#define GRADFUSE_TEXT_(x) #x
#define GRADFUSE_TEXT(x) GRADFUSE_TEXT_(x)

namespace gradfuse {
inline namespace GRADFUSE_ISA {

extern const Backend backend;
const Backend backend = {GRADFUSE_TEXT(GRADFUSE_ISA), GRADFUSE_OPERATIONS(GRADFUSE_ENTER)};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
