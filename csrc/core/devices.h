// Functions of a device other than the operations (core/backend.h): the device of an array, streams, memory.
// csrc/cuda implements them; csrc/cuda/absent.cpp does in a build without CUDA.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

#include "core/array.h"
#include "core/backend.h"

namespace gradfuse::devices {

// A failed call to a device. The text names the error.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::string built();    // what its kernels were built with; empty if there are none
std::string why_not();  // why no device can be used, as a sentence; empty if one can be used
int current_device();
int device_of(const void* pointer);  // -1 if it is not the memory of a device

// While a Scope exists, the backend's functions called by this thread use its device and stream. They allocate
// temporary memory with `allocate`. When they return, the work is queued but not finished.
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
};

// Copies from a device and to a device, after waiting for all its work.
void read(int device, void* to, const void* from, std::int64_t bytes);
void set(int device, void* to, const void* from, std::int64_t bytes);

// To be called in a scope: queues a copy to the device. The bytes, a multiple of 4, are read before it returns.
void write(void* to, const void* from, std::int64_t bytes);

// Whether the scope's stream is capturing a graph: then queued work runs later, possibly many times.
bool is_capturing();

// To be called in a scope: writes the next stream number of a generator's count on the device to `slot`.
void draw(std::uint64_t* count, std::uint64_t* slot);

// To be called in a scope: copies elements to an array of the same dtype and shape; both may have any layout.
void copy_elements(const Array& from, const Array& to);

const Backend& backend();

}  // namespace gradfuse::devices
