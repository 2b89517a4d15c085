#include "core/backend.h"

#include "cpu/kernels.h"

#define SMELT_TEXT_(x) #x
#define SMELT_TEXT(x) SMELT_TEXT_(x)

namespace smelt {
inline namespace SMELT_ISA {

extern const Backend backend;
const Backend backend = {SMELT_TEXT(SMELT_ISA), SMELT_OPERATIONS(SMELT_ENTER)};

}  // namespace SMELT_ISA
}  // namespace smelt
