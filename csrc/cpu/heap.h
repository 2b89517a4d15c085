// Uninitialized scratch memory whose length is known at run time. (Functions of the standard containers would be shared
// between the builds for different instruction sets; this class is in the namespace of one build.)
#pragma once

#include <cstdint>
#include <new>

#include "core/config.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
class Heap {
public:
    explicit Heap(std::int64_t n)
        : data_(n ? static_cast<T*>(::operator new(sizeof(T) * std::size_t(n), align)) : nullptr) {}
    ~Heap() { ::operator delete(data_, align); }
    Heap(const Heap&) = delete;
    Heap& operator=(const Heap&) = delete;

    T& operator[](std::int64_t i) const { return data_[i]; }
    T* data() const { return data_; }

private:
    static constexpr std::align_val_t align{64};
    T* const data_;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
