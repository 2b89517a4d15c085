// Tells a process from its children.
#pragma once

namespace gradfuse {

// How often fork() was called on the way to this process since gradfuse was imported.
int forks();

}  // namespace gradfuse
