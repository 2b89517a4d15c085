#include "bindings/fork.h"

#include <pthread.h>

namespace gradfuse {

namespace {

int forks = 0;
const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });

}  // namespace

int generation() { return registered == 0 ? forks : 0; }

}  // namespace gradfuse
