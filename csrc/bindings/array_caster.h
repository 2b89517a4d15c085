// From somebody's array object to a view, and from a result to an array of the caller's kind.
//
// NumPy arrays are read through their C structure, everything else through DLPack. Every check of an array argument is
// made here, before anything is written; each failure is one sentence: function, argument, expected, given.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "bindings/function.h"
#include "core/array.h"

namespace smelt {

void import_numpy();  // once, when the module is made

// A view with what keeps it alive: nothing for a NumPy array (the caller's reference is enough), else a DLPack capsule.
struct View : Array {
    py::handle object;
    py::object keeper;
    bool writeable = true;
    bool is_numpy = true;
};

// A float array argument; TypeError for another kind or dtype.
View view(py::handle object, const std::string& where);
View view(const Args& args, int i);

// A float array that will be written: ValueError if it is read-only or writes two elements to one place.
View writeable_view(py::handle object, const std::string& where);

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

void require_shape(const View& v, const std::string& where, const Array& like, const std::string& like_name);
void require_dtype(const View& v, const std::string& where, DType dtype, const std::string& like_name);
void require_length(const View& v, const std::string& where, std::int64_t n);
// Two arrays of which at least one is written, and which must be different ones.
void require_apart(const View& written, const std::string& where, const View& other, const std::string& other_name);
// `out` may be `in` itself, element on element, or must not overlap it.
void require_no_overlap(const View& out, const std::string& where, const View& in, const char* in_name);

// Index of the axis an argument names, negative ones counted from the end.
int axis_of(const Args& args, int i, const View& x);

std::string text_of(DType dtype);
std::string shape_text(const Array& a);

// The elements of a small array, whatever its dtype and strides, and back.
void load_doubles(const Array& from, double* to);
void store_doubles(const double* from, const Array& to);

// A new array for a result. `finish` hands it over as an array of the owner's kind.
class Result {
public:
    Result(const View& owner, int ndim, const std::int64_t* shape, DType dtype);
    explicit Result(const View& like) : Result(like, like.ndim, like.shape, like.dtype) {}

    const View& array() const { return array_; }
    py::object finish() const;

private:
    py::object object_;
    View array_;
    py::object owner_;  // where the result must still be turned into its kind of array
};

// An integer array as a dense one of int64; nothing where the object is not an array of integers.
std::optional<View> integer_view(py::handle object);

// Some numbers in a new array of `dtype`.
py::object vector_result(const View& owner, const std::vector<double>& values, int ndim, const std::int64_t* shape,
                         DType dtype);

}  // namespace smelt
