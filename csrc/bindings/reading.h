// The arrays that a call has read, looked at once more before it uses their memory.
//
// Reading an argument may run code of the caller: a __float__, an __index__, a __dlpack__. Such code may resize an
// array that was read before it. A call therefore reads all arguments first, and then makes sure that no array has
// moved.
#pragma once

#include <vector>

#include "bindings/array_caster.h"

namespace gradfuse {

// Exists during a call. Calls may be nested, for an argument's code may call gradfuse.
class Reading {
public:
    Reading();
    ~Reading();
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;

    // For the innermost call of this thread, if there is one.
    static void note(const View& v);
    static void note_written(const View& v);  // the call will write it
    static void note_foreign_code();          // before code of the caller may run
    static void check();                      // ValueError if an array has moved

    void finish() const;  // the call has succeeded: libraries that count the writes of an array hear of them

private:
    struct Seen {
        PyObject* object;  // kept alive
        const void* data;
        std::int64_t size;
        Source source;
        bool written;
    };
    template <class F>
    void for_all(const F& f) const {
        for (int k = 0; k < count_; ++k) f(few_[k]);
        for (const Seen& s : more_) f(s);
    }

    Reading* const outer_;
    bool foreign_code_ = false;
    int count_ = 0;
    Seen few_[12];  // most calls need no more, and no other memory
    std::vector<Seen> more_;
};

}  // namespace gradfuse
