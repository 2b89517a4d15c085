// Arrays of other libraries. They are read through the fastest interface that their type has:
//   DLPack's exchange API (PyTorch)    view, allocation and stream in C, a tenth of a microsecond
//   CuPy's attributes                  a third of a microsecond
//   __cuda_array_interface__           three microseconds
//   __dlpack__                         four microseconds
// On a GPU the last two give CuPy arrays as results and use CuPy's current stream.
#include <limits>
#include <unordered_map>

#include "bindings/array_caster.h"
#include "bindings/dlpack.h"
#include "bindings/reading.h"
#include "core/devices.h"

namespace gradfuse {

namespace {

// The names of attributes that are read in every call. Never freed, because Python may end first.
struct Words {
    static PyObject* word(const char* text) { return PyUnicode_InternFromString(text); }
    PyObject *data = word("data"), *ptr = word("ptr"), *device_id = word("device_id"), *dtype = word("dtype"),
             *shape = word("shape"), *strides = word("strides"), *requires_grad = word("requires_grad"),
             *is_neg = word("is_neg");
};
const Words& words() {
    static const Words* const all = new Words;
    return *all;
}

py::object attribute(py::handle object, PyObject* name) {
    PyObject* const value = PyObject_GetAttr(object.ptr(), name);
    if (!value) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(value);
}

std::int64_t integer(py::handle object) {
    const long long value = PyLong_AsLongLong(object.ptr());
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    return value;
}

// The interface of a type, found once per type. The types are kept alive because their addresses are the keys.
struct Library {
    Source source = Source::dlpack;
    const dlpack::ExchangeApi* api = nullptr;
    bool immutable = false, torch = false;
    py::object type;
};

const dlpack::ExchangeApi* exchange_api(py::handle type) {
    const auto capsule = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
    const auto* api =
        static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (api && api->major > 1) api = api->previous;
    return api && api->major == 1 && api->tensor_from_object ? api : nullptr;
}

const Library& library_of(py::handle object) {
    static auto* known = new std::unordered_map<PyObject*, Library>;  // never freed, because Python may end first
    PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
    const auto found = known->find(type);
    if (found != known->end()) return found->second;
    Library kind;
    kind.type = py::reinterpret_borrow<py::object>(type);
    kind.api = exchange_api(type);
    kind.immutable = interop().attr("is_immutable")(object).cast<bool>();
    kind.torch = interop().attr("is_torch")(object).cast<bool>();
    if (kind.api) {
        kind.source = Source::exchange_api;
    } else if (interop().attr("is_cupy")(object).cast<bool>()) {
        kind.source = Source::cupy;
    } else if (py::hasattr(type, "__cuda_array_interface__") && !kind.immutable &&
               !kind.torch) {  // torch CPU tensors have the attribute too
        kind.source = Source::array_interface;
    }
    return known->emplace(type, kind).first->second;
}

void require_memory(const View& v, const void* data, const Where& where) {
    if (!data && v.size > 0) fail<py::value_error>(where, " must have memory, got an array without any");
}

// PyTorch negates the imaginary part of a conjugate by a mark on the view; who reads the memory must know the mark.
// Such a view is never dense, for its elements lie between the real ones.
void require_own_sign(py::handle object, const View& v, const Where& where) {
    if (v.dense && v.size != 1) return;
    PyObject* const self[] = {object.ptr()};
    const auto negated = py::reinterpret_steal<py::object>(PyObject_VectorcallMethod(words().is_neg, self, 1, nullptr));
    if (!negated) return clear_error();  // of a library without such marks
    if (negated.ptr() != Py_True) return;
    fail<py::value_error>(where, " must not be a lazily negated view, got one: call resolve_neg() first");
}

void require_dims(std::int64_t ndim, const Where& where) {
    if (ndim > Array::max_dims) {
        fail<py::value_error>(where, " must have at most ", Array::max_dims, " dimensions, got ", ndim);
    }
}

// Asks CUDA which device a pointer belongs to.
void find_device(View& v, const Where& where) {
    if (v.size == 0) {
        v.device = std::int16_t(devices::current_device());
        return;
    }
    const int device = devices::device_of(v.data);
    if (device < 0) fail<py::value_error>(where, " must point to memory of a CUDA device, got a pointer that does not");
    v.device = std::int16_t(device);
}

void require_cuda(const Where& where) {
    static bool is_here = false;
    if (is_here) return;
    const std::string reason = devices::why_not();
    if (!reason.empty()) fail<py::value_error>(where, " is on a CUDA device, and ", reason);
    is_here = true;
}

// Reads shape and, if given, strides in bytes: sequences of Python integers.
void read_form(View& v, const Where& where, const py::tuple& shape, const py::object& strides) {
    require_dims(std::int64_t(shape.size()), where);
    v.ndim = int(shape.size());
    v.size = 1;
    for (int d = 0; d < v.ndim; ++d) {
        v.shape[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), d));
        v.size *= v.shape[d];
    }
    std::int64_t step = itemsize(v.dtype);
    for (int d = v.ndim - 1; d >= 0; --d) {
        v.strides[d] = strides.is_none() ? step : PyLong_AsLongLong(PyTuple_GET_ITEM(strides.ptr(), d));
        step *= v.shape[d];
    }
    v.dense = is_dense(v);
    require_memory(v, v.data, where);
}

void cupy_view(py::handle object, const Where& where, View& v) {
    require_cuda(where);
    const py::object memory = attribute(object, words().data);
    v.dtype = dtype_from_numpy(attribute(object, words().dtype), where);
    v.data = reinterpret_cast<void*>(integer(attribute(memory, words().ptr)));
    v.device = std::int16_t(integer(attribute(memory, words().device_id)));
    read_form(v, where, attribute(object, words().shape), attribute(object, words().strides));
}

void cuda_interface_view(py::handle object, const Where& where, View& v) {
    require_cuda(where);
    Reading::note_foreign_code();
    const py::dict interface = object.attr("__cuda_array_interface__");
    const py::tuple data = interface["data"];
    v.dtype = dtype_from_numpy(py::module_::import("numpy").attr("dtype")(interface["typestr"]), where);
    v.data = reinterpret_cast<void*>(data[0].cast<std::uintptr_t>());
    v.writeable = !data[1].cast<bool>();
    read_form(v, where, interface["shape"], interface.attr("get")("strides"));
    find_device(v, where);
    if (interface.contains("stream") && !interface["stream"].is_none()) {
        interop().attr("wait_for")(interface["stream"], v.device);
    }
}

bool dtype_from_dlpack(const dlpack::DataType& t, DType& dtype) {
    if (t.lanes != 1) return false;
    const int bits = t.bits;
    if (t.code == dlpack::kind_float && (bits == 16 || bits == 32 || bits == 64)) {
        dtype = bits == 16 ? DType::f16 : bits == 32 ? DType::f32 : DType::f64;
    } else if (t.code == dlpack::kind_bfloat && bits == 16) {
        dtype = DType::bf16;
    } else if (t.code == dlpack::kind_int && (bits == 32 || bits == 64)) {
        dtype = bits == 32 ? DType::i32 : DType::i64;
    } else {
        return false;
    }
    return true;
}

dlpack::DataType dlpack_dtype(DType d) {
    const std::uint8_t code = d == DType::bf16 ? dlpack::kind_bfloat : dlpack::kind_float;
    return {code, std::uint8_t(8 * itemsize(d)), 1};
}

void tensor_view(const dlpack::Tensor& t, const Where& where, View& v) {
    if (t.device.type == dlpack::cuda || t.device.type == dlpack::cuda_managed) {
        require_cuda(where);
        v.device = std::int16_t(t.device.id);
        if (v.source == Source::dlpack && library_of(v.object).torch) {
            fail<py::type_error>(where,
                                 " is on a CUDA device, and for that PyTorch must have DLPack's exchange API (2.10 or "
                                 "later)");
        }
    } else if (t.device.type != dlpack::cpu && t.device.type != dlpack::cuda_host) {
        fail<py::value_error>(where, " must be on the CPU or a CUDA device, got an array on DLPack device ",
                              t.device.type);
    }
    if (!dtype_from_dlpack(t.dtype, v.dtype)) fail_dtype(where, dlpack::text_of(t.dtype));
    require_dims(t.ndim, where);
    v.ndim = t.ndim;
    v.data = static_cast<char*>(t.data) + t.byte_offset;
    v.size = 1;
    for (int d = 0; d < v.ndim; ++d) {
        v.shape[d] = t.shape[d];
        v.size *= v.shape[d];
    }
    std::int64_t step = itemsize(v.dtype);
    for (int d = v.ndim - 1; d >= 0; --d) {
        v.strides[d] = t.strides ? t.strides[d] * itemsize(v.dtype) : step;
        step *= v.shape[d];
    }
    v.dense = is_dense(v);
    require_memory(v, t.data, where);
}

// The tensor inside a DLPack capsule of either version.
const dlpack::Tensor* tensor_of(PyObject* capsule, bool& writeable) {
    if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
        const auto* m = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
        writeable = !(m->flags & dlpack::flag_read_only);
        return &m->tensor;
    }
    const auto* m = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule, "dltensor"));
    return m ? &m->tensor : nullptr;
}

// Asks for version 1 if the object supports versions: only version 1 can mark an array as read-only.
py::object capsule_of(py::handle object) {
    try {
        return object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
    } catch (py::error_already_set& e) {
        if (!e.matches(PyExc_TypeError)) throw;
        return object.attr("__dlpack__")();
    }
}

void dlpack_view(py::handle object, const Where& where, View& v) {
    if (!PyObject_HasAttrString(object.ptr(), "__dlpack__")) {
        fail<py::type_error>(where, " must be an array (NumPy, or any object with __dlpack__), got ", describe(object));
    }
    const dlpack::Tensor* t = nullptr;
    Reading::note_foreign_code();
    try {
        v.keeper = capsule_of(object);
        t = tensor_of(v.keeper.ptr(), v.writeable);
        if (!t) throw py::error_already_set();
    } catch (py::error_already_set& e) {
        const std::string reason = utf8(py::str(e.value()));
        e.restore();
        clear_error();
        fail<py::type_error>(where, " could not be read through DLPack: ", reason);
    }
    tensor_view(*t, where, v);
}

void exchange_view(py::handle object, const dlpack::ExchangeApi& api, const Where& where, View& v) {
    dlpack::Tensor t;
    // A tensor that autograd follows is refused with the message of its library, as in the Python protocol.
    const auto tracked = py::getattr(object, words().requires_grad, py::bool_(false));
    if (tracked.ptr() == Py_True || api.tensor_from_object(object.ptr(), &t) != 0) {
        clear_error();
        dlpack_view(object, where, v);
        return;
    }
    tensor_view(t, where, v);
    require_own_sign(object, v, where);
}

struct AllocationError {
    std::string text;
    static void set(void* self, const char*, const char* message) {
        static_cast<AllocationError*>(self)->text = message;
    }
};

py::object exchange_empty(const dlpack::ExchangeApi& api, const View& owner, const Shape& shape, DType dtype) {
    dlpack::Tensor prototype{};
    prototype.device = {owner.on_device() ? dlpack::cuda : dlpack::cpu, owner.on_device() ? owner.device : 0};
    prototype.ndim = shape.ndim;
    prototype.dtype = dlpack_dtype(dtype);
    prototype.shape = const_cast<std::int64_t*>(shape.extents);
    dlpack::ManagedVersioned* managed = nullptr;
    AllocationError error;
    void* object = nullptr;
    if (api.allocate(&prototype, &managed, &error, AllocationError::set) != 0) {
        clear_error();
        fail<std::runtime_error>("the result could not be allocated: ", error.text);
    }
    if (api.object_from_managed(managed, &object) != 0) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

}  // namespace

void foreign_view(py::handle object, const Where& where, View& v) {
    const Library& kind = library_of(object);
    v.source = kind.source;
    v.object = object;
    switch (kind.source) {
        case Source::exchange_api:
            return exchange_view(object, *kind.api, where, v);
        case Source::cupy:
            return cupy_view(object, where, v);
        case Source::array_interface:
            return cuda_interface_view(object, where, v);
        default:
            return dlpack_view(object, where, v);
    }
}

py::object plain(py::handle object) {
    const bool tracked = py::getattr(object, words().requires_grad, py::bool_(false)).cast<bool>();
    return tracked ? object.attr("detach")() : py::reinterpret_borrow<py::object>(object);
}

View tracked_view(py::handle object, const Where& where) {
    const Library& kind = library_of(object);
    dlpack::Tensor t;
    if (kind.api && kind.api->tensor_from_object(object.ptr(), &t) == 0) {
        View v;
        v.source = kind.source;
        v.object = object;
        v.name = *where.part ? where.part : where.argument;
        tensor_view(t, where, v);
        require_own_sign(object, v, where);
        Reading::note(v);
        return v;
    }
    clear_error();
    return view(plain(object), where);
}

py::object foreign_empty(const View& owner, const Shape& shape, DType dtype) {
    if (owner.source == Source::exchange_api) {
        return exchange_empty(*library_of(owner.object).api, owner, shape, dtype);
    }
    py::tuple dims(static_cast<std::size_t>(shape.ndim));
    for (int d = 0; d < shape.ndim; ++d) dims[std::size_t(d)] = shape.extents[d];
    if (owner.source == Source::cupy && owner.device == devices::current_device()) {
        static const auto* const empty = new py::object(py::module_::import("cupy").attr("empty"));
        return (*empty)(dims, numpy_dtype(dtype));
    }
    return interop().attr("empty")(owner.object, dims, text_of(dtype), owner.device);
}

std::uintptr_t stream_of(const View& v) {
    if (v.source == Source::exchange_api) {
        void* stream = nullptr;
        if (library_of(v.object).api->current_stream(dlpack::cuda, v.device, &stream) != 0)
            throw py::error_already_set();
        return reinterpret_cast<std::uintptr_t>(stream);
    }
    if (v.on_device()) {  // the result is a CuPy array, made on CuPy's current stream
        static const auto* const current =
            new py::object(py::module_::import("cupy").attr("cuda").attr("get_current_stream"));
        return std::uintptr_t(integer(attribute((*current)(int(v.device)), words().ptr)));
    }
    return 0;
}

bool foreign_runs_code(py::handle object) {
    const Source source = library_of(object).source;
    return source == Source::array_interface || source == Source::dlpack;
}

bool foreign_has_memory_at(py::handle object, Source source, const void* data, std::int64_t size) {
    if (source != Source::exchange_api) return true;  // a DLPack capsule keeps its memory, CuPy never moves an array
    dlpack::Tensor t;
    if (library_of(object).api->tensor_from_object(object.ptr(), &t) != 0) {
        clear_error();
        return false;
    }
    std::int64_t now = 1;
    for (int d = 0; d < t.ndim; ++d) now *= t.shape[d];
    return static_cast<const char*>(t.data) + t.byte_offset == data && now == size;
}

void count_writes(py::handle like, py::handle arrays) {
    if (!library_of(like).torch) return;
    static const auto* const increment =
        new py::object(py::module_::import("torch").attr("autograd").attr("graph").attr("increment_version"));
    if (!PyObject_CallOneArg(increment->ptr(), arrays.ptr())) clear_error();  // tensors of inference mode do not count
}

bool is_immutable(const View& v) { return library_of(v.object).immutable; }

}  // namespace gradfuse
