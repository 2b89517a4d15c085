// From somebody's array object to a view, and from a result to an array of the caller's kind.
//
// NumPy arrays are read through their C structure, those of others as foreign.cpp says. Every check of an array
// argument is made here, before anything is written; each failure is one sentence: function, argument, expected, given.
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

// How an array is read and its like are made.
enum class Source : std::uint8_t { numpy, exchange_api, cupy, array_interface, dlpack };

// A view with what keeps it alive: nothing where the caller's reference is enough, else a DLPack capsule.
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

// A float array that will be written: ValueError if it is read-only or writes two elements to one place.
View writeable_view(py::handle object, const Where& where);
void require_writeable(const View& v, const Where& where);

// The memory from an array's first byte to its last; what lies between may be others'.
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

// Which bytes of an extent arrays have taken: byte by byte, wherever their elements lie.
class Bytes {
public:
    explicit Bytes(const Extent& e) : low_(e.low), taken_(std::size_t(e.high - e.low)) {}
    bool take(const Array& a);  // false if one of them was taken

private:
    const char* low_;
    std::vector<bool> taken_;
};

// A shape as it lies elsewhere: an array's, or a number's, which is a vector's.
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
// All three.
void require_alike(const View& v, const Where& where, const Array& like, const char* like_name);
// Two arrays of which at least one is written, and which must be different ones.
void require_apart(const View& written, const Where& where, const View& other);
// `out` may be `in` itself, element on element, or must not overlap it.
void require_no_overlap(const Array& out, const Where& where, const Array& in, const char* in_name);

// Index of an axis, negative ones counted from the end.
int require_axis(std::int64_t axis, const Where& where, const View& x);

std::string text_of(DType dtype);
std::string shape_text(const Shape& shape);
std::string device_text(const Array& a);  // "the CPU", "CUDA device 0"

// A new array for a result, of the owner's kind and on its device.
class Result {
public:
    Result(const View& owner, const Shape& shape, DType dtype);
    explicit Result(const View& like) : Result(like, like, like.dtype) {}

    const View& array() const { return array_; }
    py::object finish() const;  // as an array of the owner's kind
private:
    py::object object_;
    View array_;
    py::object owner_;  // where the result must still be turned into its kind of array
};

// Memory on an array's device that a call or a context needs for itself: `bytes` of it, uninitialised.
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

// An array of class indices: on the CPU a dense one of int64, on a device of int32 or int64 as it lies. Nothing where
// the object is not an array of integers.
std::optional<View> integer_view(py::handle object, const Where& where);

// ---- arrays of other libraries (foreign.cpp)

void foreign_view(py::handle object, const Where& where, View& v);
// An uninitialised array of the owner's kind, or none where its library has no arrays that can be written.
py::object foreign_empty(const View& owner, const Shape& shape, DType dtype);
std::uintptr_t stream_of(const View& v);  // where its owner's work is queued now
bool is_immutable(const View& v);
py::object numpy_dtype(DType dtype);
DType dtype_from_numpy(py::handle dtype, const Where& where);  // of floats or of 32 or 64 bit integers
bool is_dense(const Array& a);
[[noreturn]] void fail_dtype(const Where& where, const std::string& given);
py::module_ interop();  // gradfuse._interop

}  // namespace gradfuse
