// Philox on a device: a thread draws whole blocks.
#pragma once

#include "core/backend.h"
#include "core/philox.h"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// The half-words of elements [i, i + 8); i is a multiple of eight.
GRADFUSE_DEVICE void half_words(RandomStream random, std::int64_t i, std::uint32_t (&half)[elements_per_block]) {
    if (random.on_device) random.stream = *random.on_device;
    const auto multiply = [](std::uint64_t a, std::uint64_t b) {
        return std::uint64_t(std::uint32_t(a)) * std::uint64_t(std::uint32_t(b));
    };
    const auto block = philox(random, std::uint64_t(i) / elements_per_block, multiply);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        half[2 * k] = std::uint32_t(block.w[k]) & 0xffff;
        half[2 * k + 1] = std::uint32_t(block.w[k]) >> 16;
    }
}

// x = dropout(x) for a whole Philox block, elements [i, i + 8).
template <class T>
GRADFUSE_DEVICE void drop(const Dropout& d, std::int64_t i, T (&x)[elements_per_block]) {
    const T scale = T(d.scale), shift = T(d.shift), dropped = T(d.dropped);
    std::uint32_t half[elements_per_block];
    half_words(d.random, i, half);
#pragma unroll
    for (int j = 0; j < elements_per_block; ++j) x[j] = half[j] >= d.threshold ? scale * x[j] + shift : dropped;
}

// half[k], by selects: with an index that the compiler does not know, the array would be in memory, not in registers.
GRADFUSE_DEVICE std::uint32_t choose(const std::uint32_t (&half)[elements_per_block], int k) {
    const auto of_two = [&](int m) { return k & 1 ? half[m + 1] : half[m]; };
    const auto of_four = [&](int m) { return k & 2 ? of_two(m + 2) : of_two(m); };
    return k & 4 ? of_four(4) : of_four(0);
}

// Elements [begin, end) of a vector, of which element `begin` is number `place` of a Philox block.
template <int V, class T>
GRADFUSE_DEVICE void drop_in_block(const Dropout& d, const std::uint32_t (&half)[elements_per_block], int place,
                                   int begin, int end, T (&x)[V]) {
    const T scale = T(d.scale), shift = T(d.shift), dropped = T(d.dropped);
#pragma unroll
    for (int j = 0; j < V; ++j) {
        if (j < begin || j >= end) continue;
        x[j] = choose(half, place + j - begin) >= d.threshold ? scale * x[j] + shift : dropped;
    }
}

// Dropout of the first at.count elements of a vector, whose indices are at.index(j). Contiguous elements in the same
// Philox block share its computation; a whole vector is in one block.
template <int V, class T, class At>
GRADFUSE_DEVICE void drop(const Dropout& d, const At& at, T (&x)[V]) {
    std::uint32_t half[elements_per_block];
    if constexpr (At::whole) {
        const int place = int(at.index(0) % elements_per_block);
        half_words(d.random, at.index(0) - place, half);
        drop_in_block(d, half, place, 0, V, x);
    } else {
        for (int begin = 0; begin < at.count;) {
            const std::int64_t i = at.index(begin);
            const int place = int(i % elements_per_block), rest = elements_per_block - place;
            const int run = at.side_by_side(begin), end = begin + (run < rest ? run : rest);
            half_words(d.random, i - place, half);
            drop_in_block(d, half, place, begin, end, x);
            begin = end;
        }
    }
}

// Dropout of elements whose numbers are not their indices.
template <class At>
struct Renumbered {
    static constexpr bool whole = false;
    const ElementOrder& numbers;
    const At& at;
    int count;

    GRADFUSE_DEVICE std::int64_t index(int j) const { return numbers(at.index(j)); }
    GRADFUSE_DEVICE int side_by_side(int) const { return 1; }
};
template <int V, class T, class At>
GRADFUSE_DEVICE void drop(const Dropout& d, const ElementOrder& numbers, const At& at, T (&x)[V]) {
    if (numbers.ndim == 0) return drop(d, at, x);
    drop(d, Renumbered<At>{numbers, at, at.count}, x);
}

struct OwnOrder {};  // the numbers are the indices
template <int V, class T, class At>
GRADFUSE_DEVICE void drop(const Dropout& d, OwnOrder, const At& at, T (&x)[V]) {
    drop(d, at, x);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
