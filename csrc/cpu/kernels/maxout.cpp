#include "cpu/elementwise.h"
#include "cpu/kernels.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

// The array is [outer][pieces][group], group = units * inner: the pieces of a unit are one group apart.
struct Pieces {
    Pieces(const ChannelShape& s, int pieces) : pieces(pieces), outer(s.outer), group(s.channels / pieces * s.inner) {}

    int pieces;
    std::int64_t outer, group;

    std::int64_t start(std::int64_t o, int k, std::int64_t at) const { return (o * pieces + k) * group + at; }

    // Calls f(o, at, count) in parallel for the tiles of each output group.
    template <class F>
    void for_tiles(const F& f) const {
        for_row_blocks(outer, group * pieces, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t o = first; o < last; ++o) {
                for (std::int64_t at = 0; at < group; at += tile_size) {
                    f(o, at, group - at < tile_size ? group - at : tile_size);
                }
            }
        });
    }
};

}  // namespace

void maxout_forward(const ChannelShape& s, int num_pieces, const Array& x, const Array& y) {
    with_compute_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        const Pieces p(s, num_pieces);
        const Reader<T> read(x);
        const Writer<T> write(y);
        p.for_tiles([&](std::int64_t o, std::int64_t at, std::int64_t n) {
            Buffer<T> scratch, best;
            T* const top = write(o * p.group + at, best.data);
            const T* const first = read(p.start(o, 0, at), n, scratch.data);
            std::memcpy(top, first, sizeof(T) * std::size_t(n));
            for (int k = 1; k < p.pieces; ++k) {
                const T* const v = read(p.start(o, k, at), n, scratch.data);
#pragma omp simd
                for (std::int64_t i = 0; i < n; ++i) top[i] = math::max_or_nan(top[i], v[i]);
            }
            write.commit(o * p.group + at, n, top);
        });
    });
}

void maxout_backward(const ChannelShape& s, int num_pieces, const Array& dy, const Array& x, const Array& dx) {
    with_compute_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        const Pieces p(s, num_pieces);
        const Reader<T> read(x), read_dy(dy);
        const Writer<T> write(dx);
        p.for_tiles([&](std::int64_t o, std::int64_t at, std::int64_t n) {
            Buffer<T> scratch, best, gradient;
            alignas(64) std::int32_t winner[tile_size];
            std::memcpy(best.data, read(p.start(o, 0, at), n, scratch.data), sizeof(T) * std::size_t(n));
            for (std::int64_t i = 0; i < n; ++i) winner[i] = 0;
            for (int k = 1; k < p.pieces; ++k) {
                const T* const v = read(p.start(o, k, at), n, scratch.data);
#pragma omp simd
                for (std::int64_t i = 0; i < n; ++i) {
                    const T top = math::max_or_nan(best.data[i], v[i]);
                    const bool same = (top == best.data[i]) | (best.data[i] != best.data[i]);
                    winner[i] = same ? winner[i] : k;
                    best.data[i] = top;
                }
            }
            const T* const g = read_dy(o * p.group + at, n, gradient.data);
            for (int k = 0; k < p.pieces; ++k) {
                T* const to = write(p.start(o, k, at), scratch.data);
#pragma omp simd
                for (std::int64_t i = 0; i < n; ++i) to[i] = winner[i] == k ? g[i] : T(0);
                write.commit(p.start(o, k, at), n, to);
            }
        });
    });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
