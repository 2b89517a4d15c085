// The part of the DLPack ABI (versions 0 and 1) that is needed to read arrays.
#pragma once

#include <cstdint>
#include <string>

namespace gradfuse::dlpack {

constexpr std::int32_t cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13;
constexpr std::uint8_t kind_int = 0, kind_float = 2, kind_bfloat = 4;
constexpr std::uint64_t flag_read_only = 1;

struct Device {
    std::int32_t type, id;
};
struct DataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};
inline std::string text_of(DataType t) {
    const char* const kinds[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
    return (t.code < 7 ? kinds[t.code] : "DLPack type " + std::to_string(t.code) + " of bits ") +
           std::to_string(t.bits) + (t.lanes == 1 ? "" : "x" + std::to_string(t.lanes));
}

struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t *shape, *strides;  // strides in elements; null means C order
    std::uint64_t byte_offset;
};
struct Managed {
    Tensor tensor;
    void* context;
    void (*deleter)(Managed*);
};
struct ManagedVersioned {
    std::uint32_t major, minor;
    void* context;
    void (*deleter)(ManagedVersioned*);
    std::uint64_t flags;
    Tensor tensor;
};

// The C functions that an array type may offer as `__dlpack_c_exchange_api__`. They do not synchronize.
struct ExchangeApi {
    std::uint32_t major, minor;
    ExchangeApi* previous;
    int (*allocate)(Tensor* prototype, ManagedVersioned** out, void* error_context,
                    void (*set_error)(void* error_context, const char* kind, const char* message));
    int (*managed_from_object)(void* object, ManagedVersioned** out);
    int (*object_from_managed)(ManagedVersioned* tensor, void** out);
    int (*tensor_from_object)(void* object, Tensor* out);
    int (*current_stream)(std::int32_t device_type, std::int32_t device, void** out);
};

}  // namespace gradfuse::dlpack
