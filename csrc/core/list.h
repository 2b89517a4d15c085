// A list of formulas: class templates over the compute type, each with a static `info`.
#pragma once

#include <cstring>

#include "core/config.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <template <class> class... Formulas>
struct List {
    static constexpr int size = sizeof...(Formulas);
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
