#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_1_23_API_VERSION
#include "bindings/array_caster.h"

#include <numpy/arrayobject.h>

#include <algorithm>

#include "bindings/reading.h"
#include "cpu/tile.h"

namespace gradfuse {

bool Bytes::take(const Array& a) {
    bool free = true;
    for_runs(a, 0, a.size, [&](const char* at, std::int64_t count, std::int64_t stride) {
        for (std::int64_t byte = 0; byte < count * itemsize(a.dtype); ++byte) {
            const char* const place = at + byte / itemsize(a.dtype) * stride + byte % itemsize(a.dtype);
            std::vector<bool>::reference mark = taken_[std::size_t(place - low_)];
            free = free && !mark;
            mark = true;
        }
    });
    return free;
}

namespace {

// ml_dtypes registers bfloat16 with NumPy when it is imported: before that no bfloat16 array exists.
int bfloat16_number() {
    static int number = -1;
    if (number < 0) {
        PyObject* const modules = PyImport_GetModuleDict();
        PyObject* const m = PyDict_GetItemString(modules, "ml_dtypes");
        if (m) {
            const auto type = py::reinterpret_borrow<py::object>(m).attr("bfloat16");
            number = py::module_::import("numpy").attr("dtype")(type).attr("num").cast<int>();
        }
    }
    return number;
}

bool dtype_of_number(int number, DType& dtype) {
    switch (number) {
        case NPY_FLOAT:
            dtype = DType::f32;
            return true;
        case NPY_DOUBLE:
            dtype = DType::f64;
            return true;
        case NPY_HALF:
            dtype = DType::f16;
            return true;
        default:
            dtype = DType::bf16;
            return number >= NPY_USERDEF && number == bfloat16_number();
    }
}

[[noreturn]] void fail_swapped(const Where& where) {
    fail<py::type_error>(where, " must be in the machine's byte order, got a swapped array");
}

// Sets all members of a view except its dtype.
void fill_form(PyArrayObject* a, View& v) {
    v.ndim = PyArray_NDIM(a);
    v.data = PyArray_DATA(a);
    v.size = 1;
    for (int d = 0; d < v.ndim; ++d) {
        v.shape[d] = PyArray_DIM(a, d);
        v.strides[d] = PyArray_STRIDE(a, d);
        v.size *= v.shape[d];
    }
    v.dense = PyArray_IS_C_CONTIGUOUS(a) && PyArray_ISALIGNED(a);
    v.writeable = PyArray_ISWRITEABLE(a);
}

// A masked array's mask would be lost.
void refuse_masked(py::handle a, const Where& where) {
    static const auto* const masked = new py::object(py::module_::import("numpy.ma").attr("MaskedArray"));
    if (!py::isinstance(a, *masked)) return;
    fail<py::type_error>(where, " must be an array without a mask, got a masked array: fill it first");
}

void numpy_view(PyArrayObject* a, const Where& where, View& v) {
    if (!PyArray_CheckExact(a)) refuse_masked(reinterpret_cast<PyObject*>(a), where);
    if (!dtype_of_number(PyArray_TYPE(a), v.dtype)) {
        fail_dtype(where, py::str(py::handle(reinterpret_cast<PyObject*>(PyArray_DESCR(a)))));
    }
    if (!PyArray_ISNOTSWAPPED(a)) fail_swapped(where);
    if (PyArray_NDIM(a) > Array::max_dims) {
        fail<py::value_error>(where, " must have at most ", Array::max_dims, " dimensions, got ", PyArray_NDIM(a));
    }
    fill_form(a, v);
}

bool same_view(const Array& a, const Array& b) {
    if (a.data != b.data || a.dtype != b.dtype || a.ndim != b.ndim) return false;
    for (int d = 0; d < a.ndim; ++d) {
        if (a.shape[d] != b.shape[d] || (a.shape[d] != 1 && a.strides[d] != b.strides[d])) return false;
    }
    return true;
}

bool share_memory(const Array& a, const Array& b) {
    if (a.size == 0 || b.size == 0) return false;
    const Extent x = extent_of(a), y = extent_of(b);
    if (!x.touches(y)) return false;
    if (a.dense && b.dense) return true;
    Bytes bytes({std::min(x.low, y.low), std::max(x.high, y.high)});
    return !bytes.take(a) || !bytes.take(b);
}

// Whether two elements have the same address, as in a broadcast array or a window that overlaps itself.
bool overlaps_itself(const View& v) {
    if (v.dense || v.size <= 1) return false;
    std::vector<std::pair<std::int64_t, std::int64_t>> axes;  // stride, extent
    for (int d = 0; d < v.ndim; ++d) {
        if (v.shape[d] > 1) axes.emplace_back(std::abs(v.strides[d]), v.shape[d]);
    }
    std::sort(axes.begin(), axes.end());
    std::int64_t reach = itemsize(v.dtype);
    for (const auto& [stride, extent] : axes) {
        if (stride < reach) return true;
        reach = stride * (extent - 1) + reach;
    }
    return false;
}

py::object numpy_empty(const Shape& shape, DType dtype) {
    npy_intp dims[Array::max_dims];
    std::copy(shape.extents, shape.extents + shape.ndim, dims);
    PyObject* const a =
        PyArray_NewFromDescr(&PyArray_Type, reinterpret_cast<PyArray_Descr*>(numpy_dtype(dtype).release().ptr()),
                             shape.ndim, dims, nullptr, nullptr, 0, nullptr);
    if (!a) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(a);
}

}  // namespace

void fail_dtype(const Where& where, const std::string& given) {
    fail<py::type_error>(where, " must be float16, bfloat16, float32 or float64, got ", given);
}

py::object numpy_dtype(DType dtype) {
    int number = NPY_FLOAT;
    if (dtype == DType::f64) number = NPY_DOUBLE;
    if (dtype == DType::f16) number = NPY_HALF;
    if (dtype == DType::i64) number = NPY_INT64;
    if (dtype == DType::bf16) {
        py::module_::import("ml_dtypes");
        number = bfloat16_number();
    }
    return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(PyArray_DescrFromType(number)));
}

DType dtype_from_numpy(py::handle dtype, const Where& where) {
    if (!PyArray_DescrCheck(dtype.ptr())) fail_dtype(where, py::str(dtype));
    auto* const descr = reinterpret_cast<PyArray_Descr*>(dtype.ptr());
    if (!PyArray_ISNBO(descr->byteorder)) fail_swapped(where);
    DType found;
    if (PyTypeNum_ISSIGNED(descr->type_num) && PyDataType_ELSIZE(descr) == 4) return DType::i32;
    if (PyTypeNum_ISSIGNED(descr->type_num) && PyDataType_ELSIZE(descr) == 8) return DType::i64;
    if (!dtype_of_number(descr->type_num, found)) fail_dtype(where, py::str(dtype));
    return found;
}

bool is_dense(const Array& a) {
    std::int64_t step = itemsize(a.dtype);
    if (reinterpret_cast<std::uintptr_t>(a.data) % std::uintptr_t(step) != 0) return false;
    for (int d = a.ndim - 1; d >= 0; --d) {
        if (a.shape[d] != 1 && a.strides[d] != step) return a.size == 0;
        step *= a.shape[d];
    }
    return true;
}

py::module_ interop() { return py::module_::import("gradfuse._interop"); }

void import_numpy() {
    if (_import_array() < 0) throw py::error_already_set();
}

std::string describe(py::handle object) {
    if (object.is_none()) return "None";
    if (PyArray_Check(object.ptr())) {
        return "an array of " + std::string(py::str(object.attr("dtype"))) + " with shape " +
               std::string(py::str(object.attr("shape")));
    }
    if (PyUnicode_Check(object.ptr()) || PyNumber_Check(object.ptr())) return py::repr(object);
    return std::string("an object of type ") + Py_TYPE(object.ptr())->tp_name;
}

std::string text_of(DType dtype) {
    static const char* const names[] = {"float16", "bfloat16", "float32", "float64", "int32", "int64"};
    return names[int(dtype)];
}

std::string device_text(const Array& a) {
    return a.device == cpu_device ? "the CPU" : "CUDA device " + std::to_string(a.device);
}

std::string shape_text(const Shape& s) {
    std::string text = "(";
    for (int d = 0; d < s.ndim; ++d) text += (d ? ", " : "") + std::to_string(s.extents[d]);
    return text + (s.ndim == 1 ? ",)" : ")");
}

View view(py::handle object, const Where& where) {
    View v;
    v.object = object;
    v.name = *where.part ? where.part : where.argument;
    if (PyArray_Check(object.ptr())) {
        numpy_view(reinterpret_cast<PyArrayObject*>(object.ptr()), where, v);
    } else {
        foreign_view(object, where, v);
        if (v.dtype == DType::i32 || v.dtype == DType::i64) fail_dtype(where, text_of(v.dtype));
    }
    Reading::note(v);
    return v;
}

bool runs_code(py::handle object) { return !PyArray_Check(object.ptr()) && foreign_runs_code(object); }

bool has_memory_at(py::handle object, Source source, const void* data, std::int64_t size) {
    if (source != Source::numpy) return foreign_has_memory_at(object, source, data, size);
    auto* const a = reinterpret_cast<PyArrayObject*>(object.ptr());
    return PyArray_DATA(a) == data && PyArray_SIZE(a) == size;
}

View writeable_view(py::handle object, const Where& where) {
    View v = view(object, where);
    require_writeable(v, where);
    return v;
}

void require_writeable(const View& v, const Where& where) {
    if (!v.writeable || (!v.is_numpy() && is_immutable(v))) {
        fail<py::value_error>(where, " must be writeable, got a read-only array");
    }
    if (overlaps_itself(v)) {
        fail<py::value_error>(where, " must not overlap itself, got strides that put two elements in one place");
    }
    Reading::note_written(v);
}

void require_shape(const View& v, const Where& where, const Shape& shape) {
    if (!(Shape(v) == shape)) {
        fail<py::value_error>(where, " must have shape ", shape_text(shape), ", got ", shape_text(v));
    }
}

void require_shape(const View& v, const Where& where, const Array& like, const char* like_name) {
    if (!(Shape(v) == like)) {
        fail<py::value_error>(where, " must have the shape of ", like_name, ", ", shape_text(like), ", got ",
                              shape_text(v));
    }
}

void require_dtype(const View& v, const Where& where, DType dtype, const char* like_name) {
    if (v.dtype != dtype) {
        fail<py::type_error>(where, " must have the dtype of ", like_name, ", ", text_of(dtype), ", got ",
                             text_of(v.dtype));
    }
}

void require_device(const View& v, const Where& where, const Array& like, const char* like_name) {
    if (v.device != like.device) {
        fail<py::value_error>(where, " must be on the device of ", like_name, ", ", device_text(like), ", got one on ",
                              device_text(v));
    }
}

void require_alike(const View& v, const Where& where, const Array& like, const char* like_name) {
    require_device(v, where, like, like_name);
    require_shape(v, where, like, like_name);
    require_dtype(v, where, like.dtype, like_name);
}

void require_no_overlap(const Array& out, const Where& where, const Array& in, const char* in_name) {
    if (!same_view(out, in) && share_memory(out, in)) {
        fail<py::value_error>(where, " must be ", in_name, " itself or not overlap it, got an overlapping view");
    }
}

void require_apart(const View& written, const Where& where, const View& other) {
    if (share_memory(written, other)) {
        fail<py::value_error>(where, " must not overlap ", other.name, ", got one that does");
    }
}

int require_axis(std::int64_t axis, const Where& where, const View& x) {
    if (axis < -x.ndim || axis >= x.ndim) {
        fail<py::value_error>(where, " must be an axis of an array of ", x.ndim, " dimensions, got ", axis);
    }
    return int(axis < 0 ? axis + x.ndim : axis);
}

Workspace::Workspace(const View& owner, std::int64_t bytes) {
    if (!owner.on_device()) {
        host_.reset(new char[std::size_t(bytes)]);
        data_ = host_.get();
        return;
    }
    const std::int64_t doubles = (bytes + 7) / 8;
    object_ = foreign_empty(owner, doubles, DType::f64);
    data_ = view(object_, {"workspace"}).data;
}

Result::Result(const View& owner, const Shape& shape, DType dtype) {
    if (!owner.is_numpy()) {
        object_ = foreign_empty(owner, shape, dtype);
        if (!object_.is_none()) {
            array_ = view(object_, {"result"});
            if (is_immutable(owner)) owner_ = py::reinterpret_borrow<py::object>(owner.object);
            return;
        }
        owner_ = py::reinterpret_borrow<py::object>(owner.object);
    }
    object_ = numpy_empty(shape, dtype);
    array_.object = object_;
    array_.dtype = dtype;
    fill_form(reinterpret_cast<PyArrayObject*>(object_.ptr()), array_);
}

py::object Result::finish() const { return owner_ ? interop().attr("to_owner_kind")(owner_, object_) : object_; }

std::optional<View> integer_view(py::handle object, const Where& where) {
    py::object a = py::reinterpret_borrow<py::object>(object);
    if (!PyArray_Check(object.ptr())) {
        a = interop().attr("integers")(object);
        if (a.is_none()) return std::nullopt;
    }
    View v;
    v.object = object;
    if (!PyArray_Check(a.ptr())) {  // integers on a device
        foreign_view(a, where, v);
        v.object = v.keeper = a;
        return v;
    }
    auto* array = reinterpret_cast<PyArrayObject*>(a.ptr());
    if (!PyArray_CheckExact(array)) refuse_masked(a, where);
    if (!PyTypeNum_ISINTEGER(PyArray_TYPE(array)) || PyArray_NDIM(array) > Array::max_dims) return std::nullopt;
    v.keeper =
        py::reinterpret_steal<py::object>(PyArray_FROM_OTF(a.ptr(), NPY_INT64, NPY_ARRAY_CARRAY | NPY_ARRAY_FORCECAST));
    if (!v.keeper) throw py::error_already_set();
    v.object = v.keeper;
    v.dtype = DType::i64;
    fill_form(reinterpret_cast<PyArrayObject*>(v.keeper.ptr()), v);
    Reading::note(v);
    return v;
}

}  // namespace gradfuse
