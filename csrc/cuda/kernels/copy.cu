// Copies elements from one layout to another.
#include "cuda/strides.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

// Misaligned elements are copied byte by byte.
template <class Element>
struct Copy : Kernel {
    static constexpr int size_of = sizeof(Element);

    const char* from;
    char* to;
    Strides from_strides, to_strides;
    std::int64_t size;
    bool aligned;

    GRADFUSE_DEVICE void operator()() const {
        for (std::int64_t i = std::int64_t(blockIdx.x) * threads + threadIdx.x; i < size;
             i += std::int64_t(gridDim.x) * threads) {
            const char* const source = from + from_strides.offset(i);
            char* const target = to + to_strides.offset(i);
            if (aligned) {
                *reinterpret_cast<Element*>(target) = *reinterpret_cast<const Element*>(source);
            } else {
                for (int b = 0; b < size_of; ++b) target[b] = source[b];
            }
        }
    }
};

template <class Element>
void copy(const Array& from, const Array& to) {
    const Copy<Element> kernel{
        {},        static_cast<const char*>(from.data), static_cast<char*>(to.data), Strides(from), Strides(to),
        from.size, is_aligned(from) && is_aligned(to)};
    launch(kernel, blocks_for(from.size, kernel.threads));
}

}  // namespace

}  // namespace GRADFUSE_ISA

Array dense_like(const Array& like) {
    Array a = like;
    a.data = allocate(like.size * itemsize(like.dtype));
    a.dense = true;
    std::int64_t step = itemsize(like.dtype);
    for (int d = a.ndim - 1; d >= 0; --d) {
        a.strides[d] = step;
        step *= a.shape[d];
    }
    return a;
}

}  // namespace gradfuse::cuda

namespace gradfuse::devices {

void copy_elements(const Array& from, const Array& to) {
    switch (itemsize(from.dtype)) {
        case 2:
            return cuda::copy<std::uint16_t>(from, to);
        case 4:
            return cuda::copy<std::uint32_t>(from, to);
        default:
            return cuda::copy<std::uint64_t>(from, to);
    }
}

}  // namespace gradfuse::devices
