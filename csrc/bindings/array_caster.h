// Makes a view of an array object, and an array of the caller's library from a result.
//
// NumPy arrays are read through their C structure, arrays of other libraries as foreign.cpp says. Every check of an
// array argument is made here, before anything is written. An error is one sentence: function, argument, expected,
// given.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/function.h"
#include "core/array.h"

namespace gradfuse {

void import_numpy();  // once, when the module is made

// How an array is read, and how an array of the same library is allocated.
enum class Source : std::uint8_t { numpy, exchange_api, cupy, array_interface, dlpack };

// A view and the object that keeps its memory alive: a DLPack capsule, or none if the caller's reference is enough.
struct View : Array {
    py::handle object;
    const char* name = "";  // of the argument, for messages
    py::object keeper;
    bool writeable = true;
    Source source = Source::numpy;

    bool is_numpy() const { return source == Source::numpy; }
    bool on_device() const { return device != cpu_device; }
};

// A float array argument; TypeError for another kind or dtype.
View view(py::handle object, const Where& where);

// Whether reading it may run code of the caller: anything without an interface in C.
bool runs_code(py::handle object);

// Whether an array still has this memory, as far as its library can be asked.
bool has_memory_at(py::handle object, Source source, const void* data, std::int64_t size);

// A float array that will be written: ValueError if it is read-only or if two elements have the same address.
View writeable_view(py::handle object, const Where& where);
void require_writeable(const View& v, const Where& where);

// The memory from an array's first byte to its last. Bytes in between may belong to other arrays.
struct Extent {
    const char *low, *high;
    bool touches(const Extent& e) const { return low < e.high && e.low < high; }
};
inline Extent extent_of(const Array& a) {
    Extent e{static_cast<const char*>(a.data), static_cast<const char*>(a.data)};
    if (a.size == 0) return e;
    for (int d = 0; d < a.ndim; ++d) {
        const std::int64_t reach = (a.shape[d] - 1) * a.strides[d];
        (reach < 0 ? e.low : e.high) += reach;
    }
    e.high += itemsize(a.dtype);
    return e;
}

// Marks which bytes of an extent are used by arrays of any strides.
class Bytes {
public:
    explicit Bytes(const Extent& e) : low_(e.low), taken_(std::size_t(e.high - e.low)) {}
    bool take(const Array& a);  // false if one of its bytes was taken before

private:
    const char* low_;
    std::vector<bool> taken_;
};

// Points to a shape: that of an array, or a single number, the length of a vector.
struct Shape {
    Shape() = default;
    Shape(const std::int64_t& n) : ndim(1), extents(&n) {}
    Shape(const Array& a) : ndim(a.ndim), extents(a.shape) {}
    Shape(int ndim, const std::int64_t* extents) : ndim(ndim), extents(extents) {}
    bool operator==(const Shape& s) const { return ndim == s.ndim && std::equal(extents, extents + ndim, s.extents); }

    int ndim = 0;
    const std::int64_t* extents = nullptr;
};

void require_shape(const View& v, const Where& where, const Shape& shape);
void require_shape(const View& v, const Where& where, const Array& like, const char* like_name);
void require_dtype(const View& v, const Where& where, DType dtype, const char* like_name);
void require_device(const View& v, const Where& where, const Array& like, const char* like_name);
// Checks shape, dtype and device.
void require_alike(const View& v, const Where& where, const Array& like, const char* like_name);
// At least one of the arrays is written: they must not overlap.
void require_apart(const View& written, const Where& where, const View& other);
// `out` must be `in` itself (the same address for each element) or not overlap it.
void require_no_overlap(const Array& out, const Where& where, const Array& in, const char* in_name);

// The index of an axis; negative ones count from the end.
int require_axis(std::int64_t axis, const Where& where, const View& x);

std::string text_of(DType dtype);
std::string shape_text(const Shape& shape);
std::string device_text(const Array& a);  // "the CPU", "CUDA device 0"

// A new array for a result, of the owner's library and on its device.
class Result {
public:
    Result(const View& owner, const Shape& shape, DType dtype);
    explicit Result(const View& like) : Result(like, like, like.dtype) {}

    const View& array() const { return array_; }
    py::object finish() const;  // as an array of the owner's library
private:
    py::object object_;
    View array_;
    py::object owner_;  // set if the result must still be converted to an array of the owner's library
};

// Uninitialized scratch memory on an array's device, for a call or a context.
class Workspace {
public:
    Workspace(const View& owner, std::int64_t bytes);
    void* data() const { return data_; }

private:
    py::object object_;
    std::unique_ptr<char[]> host_;
    void* data_ = nullptr;
};

// One double per channel on an array's device.
class Doubles {
public:
    Doubles(const View& owner, std::int64_t n) : memory_(owner, n * std::int64_t(sizeof(double))) {}
    double* data() const { return static_cast<double*>(memory_.data()); }

private:
    Workspace memory_;
};

// An array of class indices. On the CPU it is converted to dense int64; on a device int32 and int64 are used as they
// are. Empty if the object is not an array of integers.
std::optional<View> integer_view(py::handle object, const Where& where);

// ---- arrays of other libraries (foreign.cpp)

void foreign_view(py::handle object, const Where& where, View& v);
// An optimizer writes a tensor that autograd follows without a record in its graph, as PyTorch's optimizers do.
py::object plain(py::handle object);  // this array, or its memory as one that autograd does not follow
View tracked_view(py::handle object, const Where& where);  // view(plain(object)), but fast
// An uninitialized array of the owner's library, or none if its arrays cannot be written.
py::object foreign_empty(const View& owner, const Shape& shape, DType dtype);
std::uintptr_t stream_of(const View& v);  // the current stream of its library
bool is_immutable(const View& v);
// PyTorch counts the writes of a tensor, so that autograd notices them. `arrays`: one like `like`, or a tuple of them.
void count_writes(py::handle like, py::handle arrays);
bool foreign_runs_code(py::handle object);
bool foreign_has_memory_at(py::handle object, Source source, const void* data, std::int64_t size);
py::object numpy_dtype(DType dtype);
DType dtype_from_numpy(py::handle dtype, const Where& where);  // float types, and 32 or 64 bit integers
bool is_dense(const Array& a);
[[noreturn]] void fail_dtype(const Where& where, const std::string& given);
py::module_ interop();  // gradfuse._interop

}  // namespace gradfuse
