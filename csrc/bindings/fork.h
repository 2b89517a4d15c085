// Whether this process is still the one in which something was done, or its child.
#pragma once

namespace gradfuse {

// 0, and one more in a child of fork().
int generation();

}  // namespace gradfuse
