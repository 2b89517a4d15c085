// Functions of the module: declared by their Python signature, called through CPython's vectorcall.
//
// pybind11's own argument conversion costs more than a small kernel; here a call binds its arguments to places and
// nothing else. The signature is written once: names, order and defaults for the binding, for help(), for the stubs
// and for error messages all come from that text.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace gradfuse {

namespace py = pybind11;

// Throws TypeError or ValueError with one sentence made of the parts.
template <class Error, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw Error(text.str());
}

class Args;

struct Function {
    using Body = py::object (*)(const Args&);

    std::string name, qualified_doc;
    std::vector<py::object> names, defaults;  // interned names; a null default marks a required argument
    int positional = 0;                       // how many may be given by position
    Body body = nullptr;
    int tag = 0;  // what the body finds of itself: a row of a list
    PyMethodDef definition{};
};

// The arguments of one call, by place.
class Args {
public:
    static constexpr int max_args = 20;

    Args(const Function& f, PyObject* const* values, Py_ssize_t count, PyObject* keywords);

    const char* function() const { return function_.name.c_str(); }
    const char* name(int i) const { return PyUnicode_AsUTF8(function_.names[std::size_t(i)].ptr()); }
    int tag() const { return function_.tag; }
    py::handle operator[](int i) const { return slots_[i]; }
    bool given(int i) const { return slots_[i] != Py_None; }

    double number(int i) const;
    std::int64_t integer(int i) const;
    bool flag(int i) const;
    std::string text(int i) const;

    // "elu: alpha"
    std::string where(int i) const { return function_.name + ": " + name(i); }

private:
    const Function& function_;
    PyObject* slots_[max_args];
};

// A Python integer, no bool; TypeError for anything else.
std::int64_t integer_of(py::handle object, const std::string& where);

// A Python number, no bool and no text; TypeError for anything else.
double number_of(py::handle object, const std::string& where);

// A short description of a Python object for error messages: "a list", "array of int64 (3, 4)".
std::string describe(py::handle object);

// Adds the function that `signature` declares, such as "elu(x, alpha=1.0, *, out=None)".
void define(py::module_& m, const std::string& signature, const std::string& doc, Function::Body body, int tag = 0);

}  // namespace gradfuse
