#include "bindings/reading.h"

#include <iterator>

namespace gradfuse {

namespace {

thread_local Reading* innermost = nullptr;

}  // namespace

Reading::Reading() : outer_(innermost) { innermost = this; }

Reading::~Reading() {
    innermost = outer_;  // first: the end of an object may run code
    for_all([](const Seen& s) { Py_DECREF(s.object); });
}

void Reading::note(const View& v) {
    Reading* const r = innermost;
    if (!r) return;
    Py_INCREF(v.object.ptr());
    const Seen seen{v.object.ptr(), v.data, v.size, v.source, false};
    if (r->count_ < int(std::size(r->few_))) {
        r->few_[r->count_++] = seen;
    } else {
        r->more_.push_back(seen);
    }
}

void Reading::note_written(const View& v) {
    if (!innermost || v.source != Source::exchange_api) return;  // no other library counts
    innermost->for_all([&](const Seen& s) {
        if (s.object == v.object.ptr()) const_cast<Seen&>(s).written = true;
    });
}

void Reading::note_foreign_code() {
    if (innermost) innermost->foreign_code_ = true;
}

void Reading::check() {
    const Reading* const r = innermost;
    if (!r) return;
    r->for_all([&](const Seen& s) {
        if (s.source != Source::numpy && !r->foreign_code_) return;  // asking takes longer there
        if (has_memory_at(s.object, s.source, s.data, s.size)) return;
        fail<py::value_error>("an array must stay as it is while the arguments are read, got one that was resized");
    });
}

void Reading::finish() const {
    for_all([](const Seen& s) {
        if (s.written) count_writes(s.object, s.object);
    });
}

}  // namespace gradfuse
