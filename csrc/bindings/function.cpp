#include "bindings/function.h"

#include <pybind11/eval.h>

namespace gradfuse {

namespace {

PyObject* call(PyObject* self, PyObject* const* values, Py_ssize_t count, PyObject* keywords) noexcept {
    const auto* f = static_cast<const Function*>(PyCapsule_GetPointer(self, nullptr));
    try {
        return f->body(Args(*f, values, count, keywords)).release().ptr();
    } catch (py::error_already_set& e) {
        e.restore();
    } catch (const py::builtin_exception& e) {
        e.set_error();
    } catch (const std::bad_alloc&) {
        PyErr_Format(PyExc_MemoryError, "%s: out of memory", f->name.c_str());
    } catch (const std::exception& e) {
        PyErr_Format(PyExc_RuntimeError, "%s: %s", f->name.c_str(), e.what());
    }
    return nullptr;
}

std::string strip(const std::string& s) {
    const auto first = s.find_first_not_of(' ');
    return first == std::string::npos ? "" : s.substr(first, s.find_last_not_of(' ') - first + 1);
}

// The parameters of "f(a, b=(1, 2), *, c=None)", split at commas outside brackets.
std::vector<std::string> split_parameters(const std::string& signature) {
    const std::string list = signature.substr(signature.find('(') + 1, signature.rfind(')') - signature.find('(') - 1);
    std::vector<std::string> parts{""};
    int depth = 0;
    for (const char c : list) {
        depth += c == '(' ? 1 : c == ')' ? -1 : 0;
        if (c == ',' && depth == 0) {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    return parts;
}

}  // namespace

Args::Args(const Function& f, PyObject* const* values, Py_ssize_t count, PyObject* keywords) : function_(f) {
    const int total = int(f.names.size());
    if (count > f.positional) {
        fail<py::type_error>(f.name, ": takes at most ", f.positional, " positional arguments, got ", count);
    }
    int filled = 0;
    for (; filled < count; ++filled) slots_[filled] = values[filled];
    for (int i = filled; i < total; ++i) slots_[i] = f.defaults[std::size_t(i)].ptr();
    if (keywords) {
        const Py_ssize_t n = PyTuple_GET_SIZE(keywords);
        bool named[max_args] = {};
        for (Py_ssize_t k = 0; k < n; ++k) {
            PyObject* const key = PyTuple_GET_ITEM(keywords, k);
            int at = 0;
            while (at < total && f.names[std::size_t(at)].ptr() != key) ++at;
            if (at == total) {
                at = 0;
                while (at < total && PyUnicode_Compare(f.names[std::size_t(at)].ptr(), key) != 0) ++at;
            }
            if (at == total) {
                fail<py::type_error>(f.name, ": unexpected argument '", PyUnicode_AsUTF8(key), "'; the signature is ",
                                     f.qualified_doc.substr(0, f.qualified_doc.find('\n')));
            }
            if (at < filled || named[at]) fail<py::type_error>(f.name, ": argument ", name(at), " given twice");
            named[at] = true;
            slots_[at] = values[count + k];
        }
    }
    for (int i = 0; i < total; ++i) {
        if (!slots_[i]) fail<py::type_error>(f.name, ": missing argument ", name(i));
    }
}

double number_of(py::handle object, const std::string& where) {
    PyObject* const o = object.ptr();
    const bool other = PyBool_Check(o) || PyUnicode_Check(o);
    const double value = other ? -1 : PyFloat_AsDouble(o);
    if (other || (value == -1 && PyErr_Occurred())) {
        PyErr_Clear();
        fail<py::type_error>(where, " must be a number, got ", describe(o));
    }
    return value;
}

double Args::number(int i) const {
    PyObject* const o = slots_[i];
    return PyFloat_CheckExact(o) ? PyFloat_AS_DOUBLE(o) : number_of(o, where(i));
}

std::int64_t integer_of(py::handle object, const std::string& where) {
    PyObject* const o = object.ptr();
    const auto index = PyBool_Check(o) ? py::object() : py::reinterpret_steal<py::object>(PyNumber_Index(o));
    int overflow = 0;
    const long long value = index ? PyLong_AsLongLongAndOverflow(index.ptr(), &overflow) : 0;
    if (!index || overflow) {
        PyErr_Clear();
        fail<py::type_error>(where, " must be an integer, got ", describe(o));
    }
    return value;
}

std::int64_t Args::integer(int i) const { return integer_of(slots_[i], where(i)); }

bool Args::flag(int i) const {
    PyObject* const o = slots_[i];
    if (o == Py_True || o == Py_False) return o == Py_True;
    fail<py::type_error>(where(i), " must be True or False, got ", describe(o));
}

std::string Args::text(int i) const {
    if (PyUnicode_Check(slots_[i])) return py::cast<std::string>(py::handle(slots_[i]));
    fail<py::type_error>(where(i), " must be a string, got ", describe(slots_[i]));
}

void define(py::module_& m, const std::string& signature, const std::string& doc, Function::Body body, int tag) {
    auto* f = new Function;  // lives as long as the module, which is as long as the process
    f->name = signature.substr(0, signature.find('('));
    f->body = body;
    f->tag = tag;
    bool keyword_only = false;
    std::string text;
    for (const std::string& part : split_parameters(signature)) {
        const std::string parameter = strip(part);
        if (parameter.empty()) continue;
        text += (text.empty() ? "" : ", ") + parameter;
        if (parameter == "*") {
            keyword_only = true;
            continue;
        }
        const auto equals = parameter.find('=');
        PyObject* name = PyUnicode_FromString(parameter.substr(0, equals).c_str());
        PyUnicode_InternInPlace(&name);
        f->names.push_back(py::reinterpret_steal<py::object>(name));
        f->defaults.push_back(equals == std::string::npos ? py::object()
                                                          : py::eval(parameter.substr(equals + 1)).cast<py::object>());
        if (!keyword_only) f->positional = int(f->names.size());
    }
    f->qualified_doc = f->name + "(" + text + ")\n--\n\n" + doc;
    f->definition = {f->name.c_str(), reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)),
                     METH_FASTCALL | METH_KEYWORDS, f->qualified_doc.c_str()};
    const py::capsule self(f);
    const py::str module_name("gradfuse");
    m.attr(f->name.c_str()) =
        py::reinterpret_steal<py::object>(PyCFunction_NewEx(&f->definition, self.ptr(), module_name.ptr()));
}

}  // namespace gradfuse
