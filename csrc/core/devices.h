// What the bindings ask of a device beside its operations (core/backend.h): where arrays are, streams, memory.
// csrc/cuda has these functions, or csrc/cuda/absent.cpp in a build without it.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

#include "core/array.h"
#include "core/backend.h"

namespace gradfuse::devices {

// A call to a device that failed. The text names the error.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::string built();    // what its kernels were built with; empty where there are none
std::string why_not();  // why no device can be used, in a sentence; empty where one can
int current_device();
int device_of(const void* pointer);  // -1 for what is no device's memory

// While one lives, the backend's functions called by this thread work on this device and stream. What
// they need for themselves comes from `allocate`, and is no more than queued when they return.
class Scope {
public:
    using Allocate = std::function<void*(std::int64_t bytes)>;

    Scope(int device, std::uintptr_t stream, Allocate allocate);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

private:
    const Allocate allocate_;
    const int previous_;  // device
    // Of the scope around this one: an allocation may run Python's code, and that may call gradfuse.
    std::uintptr_t outer_stream_ = 0;
    const Allocate* outer_allocate_ = nullptr;
};

// From a device and to it, once all work on it is done.
void read(int device, void* to, const void* from, std::int64_t bytes);
void set(int device, void* to, const void* from, std::int64_t bytes);

// Within a scope, as the backend's functions: to the device. The bytes are copied before it returns.
void write(void* to, const void* from, std::int64_t bytes);

// Whether the scope's stream is recording a graph: what is queued now runs later, and maybe often.
bool is_capturing();

// Likewise: the next stream number of a generator's count on the device, left at `slot`.
void draw(std::uint64_t* count, std::uint64_t* slot);

// Likewise: the elements of one array to another of its dtype and shape, in whatever layout each is.
void copy_elements(const Array& from, const Array& to);

const Backend& backend();

}  // namespace gradfuse::devices
