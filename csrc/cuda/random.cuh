// Philox on a device: a thread draws whole blocks.
#pragma once

#include "core/backend.h"
#include "core/philox.h"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// The half-words of the eight elements from i on, i a multiple of eight.
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

// x = dropout(x) of the first n of up to eight elements from i on: all of one Philox block where n = 8, or a single
// one.
template <class T>
GRADFUSE_DEVICE void drop(const Dropout& d, std::int64_t i, int n, T (&x)[elements_per_block]) {
    const T scale = T(d.scale), shift = T(d.shift), dropped = T(d.dropped);
    const std::int64_t begin = i / elements_per_block * elements_per_block;
    const int skip = int(i - begin);  // 0 but for a single element
    std::uint32_t half[elements_per_block];
    half_words(d.random, begin, half);
#pragma unroll
    for (int j = 0; j < elements_per_block; ++j) {
        if (j == skip) half[0] = half[j];
    }
#pragma unroll
    for (int j = 0; j < elements_per_block; ++j) {
        const T kept = scale * x[j] + shift;
        if (j < n) x[j] = half[j] >= d.threshold ? kept : dropped;
    }
}

// The same of the first at.count elements of a vector, whose indices at.index(j) need not begin with a block.
template <int V, class T, class At>
GRADFUSE_DEVICE void drop(const Dropout& d, const At& at, T (&x)[V]) {
    const T scale = T(d.scale), shift = T(d.shift), dropped = T(d.dropped);
    for (int next = 0; next < at.count;) {
        const std::int64_t begin = at.index(next) / elements_per_block * elements_per_block;
        std::uint32_t half[elements_per_block];
        half_words(d.random, begin, half);
        const int first = next;
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const std::int64_t behind = at.index(j) - begin;
            if (j < first || j >= at.count || behind >= elements_per_block) continue;
            const int place = int(behind);
            std::uint32_t drawn = 0;
#pragma unroll
            for (int k = 0; k < elements_per_block; ++k) drawn = place == k ? half[k] : drawn;
            x[j] = drawn >= d.threshold ? scale * x[j] + shift : dropped;
            next = j + 1;
        }
    }
}

// The same where the elements have other numbers than their indices.
template <int V, class T, class At>
GRADFUSE_DEVICE void drop(const Dropout& d, const ElementOrder& numbers, const At& at, T (&x)[V]) {
    if (numbers.ndim == 0) return drop(d, at, x);
    for (int j = 0; j < V; ++j) {
        if (j >= at.count) break;
        T one[elements_per_block] = {x[j]};
        drop(d, numbers(at.index(j)), 1, one);
        x[j] = one[0];
    }
}

struct OwnOrder {};  // the numbers are the indices
template <int V, class T, class At>
GRADFUSE_DEVICE void drop(const Dropout& d, OwnOrder, const At& at, T (&x)[V]) {
    drop(d, at, x);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
