// Python's lock, released and taken again.
//
// While the interpreter ends, Python ends every other thread that asks for the lock. That would unwind the thread
// through functions that nothing may leave this way, and C++ would end the process with an error. So such a thread
// sleeps until the process is gone.
#pragma once

#include <pybind11/pybind11.h>

#if defined(__GLIBC__)
#include <cxxabi.h>
#include <unistd.h>
#endif

namespace gradfuse {

template <class Ask>
auto or_sleep(const Ask& ask) {
#if defined(__GLIBC__)
    try {
        return ask();
    } catch (abi::__forced_unwind&) {
        for (;;) pause();
    }
#else
    return ask();
#endif
}

// Other Python threads run while this exists.
class WithoutGil {
public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() {
        or_sleep([&] { PyEval_RestoreThread(state_); });
    }
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;

private:
    PyThreadState* const state_;
};

// This thread may call Python while this exists.
class WithGil {
public:
    WithGil() : state_(or_sleep([] { return PyGILState_Ensure(); })) {}
    ~WithGil() { PyGILState_Release(state_); }
    WithGil(const WithGil&) = delete;
    WithGil& operator=(const WithGil&) = delete;

private:
    const PyGILState_STATE state_;
};

}  // namespace gradfuse
