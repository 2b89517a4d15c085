// Replaces csrc/cuda in a build without CUDA.
#include "core/devices.h"

namespace gradfuse::devices {

std::string built() { return ""; }
std::string why_not() {
    return "this build of gradfuse has no CUDA: install a CUDA toolkit (nvcc) and build gradfuse again, or move the "
           "array to "
           "the CPU";
}
int current_device() { return -1; }
int device_of(const void*) { return -1; }

[[noreturn]] static void refuse() { throw Error(why_not()); }
Scope::Scope(int, std::uintptr_t, Allocate) : previous_(-1) { refuse(); }
Scope::~Scope() = default;
void read(int, void*, const void*, std::int64_t) { refuse(); }
void write(void*, const void*, std::int64_t) { refuse(); }
void set(int, void*, const void*, std::int64_t) { refuse(); }
bool is_capturing() { return false; }
void draw(std::uint64_t*, std::uint64_t*) { refuse(); }
void copy_elements(const Array&, const Array&) { refuse(); }
const Backend& backend() { refuse(); }

}  // namespace gradfuse::devices
