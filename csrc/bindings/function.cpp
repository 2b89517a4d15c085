#include "bindings/function.h"

#include "bindings/reading.h"

namespace gradfuse {

namespace {

PyObject* call(PyObject* self, PyObject* const* values, Py_ssize_t count, PyObject* keywords) noexcept {
    const auto* f = static_cast<const Function*>(PyCapsule_GetPointer(self, nullptr));
    const Reading reading;
    try {
        py::object result = f->body(Args(*f, values, count, keywords));
        reading.finish();
        return result.release().ptr();
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

}  // namespace

void clear_error() {
    if (!PyErr_Occurred()) return;
    if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError) ||
        PyErr_ExceptionMatches(PyExc_RecursionError)) {
        throw py::error_already_set();
    }
    PyErr_Clear();
}

std::string utf8(py::handle text) {
    const auto bytes =
        py::reinterpret_steal<py::object>(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "backslashreplace"));
    if (!bytes) throw py::error_already_set();
    return {PyBytes_AS_STRING(bytes.ptr()), std::size_t(PyBytes_GET_SIZE(bytes.ptr()))};
}

std::ostream& operator<<(std::ostream& text, const Where& w) {
    text << w.function;
    if (*w.argument) text << ": " << w.argument << w.separator << w.part;
    if (w.item >= 0) text << '[' << w.item << ']';
    return text;
}

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
                fail<py::type_error>(f.name, ": unexpected argument '", utf8(key), "'; the signature is ",
                                     f.doc.substr(0, f.doc.find('\n')));
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

double number_of(py::handle object, const Where& where) {
    PyObject* const o = object.ptr();
    if (!PyFloat_CheckExact(o)) Reading::note_foreign_code();
    const bool other = PyBool_Check(o) || PyUnicode_Check(o);
    const double value = other ? -1 : PyFloat_AsDouble(o);
    if (other || (value == -1 && PyErr_Occurred())) {
        clear_error();
        fail<py::type_error>(where, " must be a number, got ", describe(o));
    }
    return value;
}

double number_in(py::handle object, const Where& where, const Interval& interval) {
    const double value = number_of(object, where);
    if (interval.contains(value)) return value;
    fail<py::value_error>(where, " must be ", interval.text, ", got ", text_of(value));
}

std::int64_t integer_of(py::handle object, const Where& where) {
    PyObject* const o = object.ptr();
    if (!PyLong_CheckExact(o)) Reading::note_foreign_code();
    const auto index = PyBool_Check(o) ? py::object() : py::reinterpret_steal<py::object>(PyNumber_Index(o));
    int overflow = 0;
    const long long value = index ? PyLong_AsLongLongAndOverflow(index.ptr(), &overflow) : 0;
    if (!index || overflow) {
        clear_error();
        fail<py::type_error>(where, " must be an integer, got ", describe(o));
    }
    return value;
}

std::string text_of(double number) { return py::repr(py::float_(number)); }

namespace {

std::string documentation(const Signature& signature, const About& about) {
    std::string text = about.formula + "\n\n" + about.text;
    for (const Declared& p : signature.parameters) {
        if (!p.what.empty()) text += "\n" + std::string(p.name) + ": " + p.what + ".";
    }
    const bool out = signature.has("out");
    if (out) text += "\nout: an array for the result, which may be one of the inputs, or None.";
    if (signature.has("ctx")) {
        text +=
            "\nRaises TypeError or ValueError for a grad_out that does not match the forward's result or for a context "
            "of another function" +
            about.errors + ".";
    } else if (!about.source.empty()) {
        text += std::string("\nRaises TypeError for a wrong kind or dtype, ValueError for a wrong shape") +
                (signature.has("axis") ? ", axis" : "") + " or value" +
                (out ? ", or an `out` that cannot be written" : "") + about.errors + ".";
    }
    return text + (about.source.empty() ? "" : "\nSource: " + about.source + ".");
}

}  // namespace

void define_internal(py::module_& m, const std::string& name, const Signature& signature, const std::string& returns,
                     const About& about, Body body, int tag) {
    auto* f = new Function;  // never freed, like the module
    f->name = name;
    f->body = body;
    f->tag = tag;
    std::string plain, typed;  // `plain` is for help() and inspect, `typed` for the stub
    bool by_position = true;
    for (const Declared& p : signature.parameters) {
        const std::string start = (plain.empty() ? "" : ", ") + std::string(p.name);
        const std::string value = p.value ? std::string(py::repr(p.value)) : "";
        plain += start + (p.value ? "=" + value : "");
        typed += start + (p.word ? ": " + p.type : "") + (p.value ? " = " + value : "");
        by_position = by_position && p.word;
        if (!p.word) continue;
        f->words.push_back(p.word);
        PyObject* interned = PyUnicode_FromString(p.name);
        PyUnicode_InternInPlace(&interned);
        f->names.push_back(py::reinterpret_steal<py::object>(interned));
        f->defaults.push_back(p.value);
        f->positional += by_position;
    }
    if (f->words.size() > Args::max_args) fail<std::length_error>(name, ": too many parameters");
    f->doc = name + "(" + plain + ")\n--\n\n" + documentation(signature, about);
    f->definition = {f->name.c_str(), reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)),
                     METH_FASTCALL | METH_KEYWORDS, f->doc.c_str()};
    const py::capsule self(f);
    const py::str module_name("gradfuse");
    m.attr(name.c_str()) =
        py::reinterpret_steal<py::object>(PyCFunction_NewEx(&f->definition, self.ptr(), module_name.ptr()));
    m.attr("signatures")[name.c_str()] = "(" + typed + ") -> " + returns;
}

void define(py::module_& m, const std::string& name, const Signature& signature, const std::string& returns,
            const About& about, Body body, int tag) {
    define_internal(m, name, signature, returns, about, body, tag);
    m.attr("__all__").attr("append")(name);
}

}  // namespace gradfuse
