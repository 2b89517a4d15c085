#include "cpu/elementwise.h"

#include "core/backend.h"
#include "cpu/half_words.h"
#include "cpu/kernels.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

template <class T, template <class> class... Formulas>
const ActivationLoops<T>& row_of(int row, List<Formulas...>) {
    static constexpr ActivationLoops<T> rows[] = {
        {forward_loop<Formulas, T>, backward_loop<Formulas, T>, Formulas<T>::info.saves}...};
    return rows[row];
}

}  // namespace

template <class T>
const ActivationLoops<T>& activation_loops(int row) {
    return row_of<T>(row, Activations{});
}
template const ActivationLoops<float>& activation_loops<float>(int);
template const ActivationLoops<double>& activation_loops<double>(int);

template <class T>
void dropout_tile(const Dropout& d, std::int64_t start, const T* x, T* y, std::int64_t n) {
    HalfWords random;
    const std::int32_t threshold = std::int32_t(d.threshold);
    const T scale = T(d.scale), shift = T(d.shift), dropped = T(d.dropped);
    for (std::int64_t done = 0; done < n; done += tile_size) {
        const std::int64_t count = n - done < tile_size ? n - done : tile_size;
        const T* const from = x + done;
        T* const to = y + done;
        const std::uint16_t* const half_words = random.draw(d.random, start + done, count);
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) {
            const T kept = scale * from[i] + shift;
            to[i] = std::int32_t(half_words[i]) >= threshold ? kept : dropped;
        }
    }
}
template void dropout_tile<float>(const Dropout&, std::int64_t, const float*, float*, std::int64_t);
template void dropout_tile<double>(const Dropout&, std::int64_t, const double*, double*, std::int64_t);

namespace {

// out = f(a), tile by tile. f(start, a, out, n) may work in place.
template <class T, class F>
void map(const Array& a, const Array& out, const F& f) {
    const Reader<T> read(a);
    const Writer<T> write(out);
    for_blocks(out.size, [&](std::int64_t begin, std::int64_t n) {
        Buffer<T> scratch;
        for_tiles(begin, n, read.direct() && write.direct(), [&](std::int64_t start, std::int64_t count) {
            const T* const x = read(start, count, scratch.data);
            T* const y = write(start, scratch.data);
            f(start, x, y, count);
            write.commit(start, count, y);
        });
    });
}

template <class T, class F>
void map(const Array& a, const Array& b, const Array& out, const F& f) {
    const Reader<T> read_a(a), read_b(b);
    const Writer<T> write(out);
    const bool direct = read_a.direct() && read_b.direct() && write.direct();
    for_blocks(out.size, [&](std::int64_t begin, std::int64_t n) {
        Buffer<T> scratch_a, scratch_b;
        for_tiles(begin, n, direct, [&](std::int64_t start, std::int64_t count) {
            const T* const x = read_a(start, count, scratch_a.data);
            const T* const y = read_b(start, count, scratch_b.data);
            T* const z = write(start, scratch_a.data);
            f(start, x, y, z, count);
            write.commit(start, count, z);
        });
    });
}

}  // namespace

void activation_forward(const Activation& a, const Array& x, const Array& y) {
    with_compute_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        const auto loop = activation_loops<T>(a.row).forward;
        map<T>(x, y, [&](std::int64_t, const T* from, T* to, std::int64_t n) { loop(a.parameters, from, to, n); });
    });
}

void activation_backward(const Activation& a, const Array& dy, const Array& saved, const Array& dx) {
    with_compute_type(dy.dtype, [&](auto t) {
        using T = decltype(t);
        const auto loop = activation_loops<T>(a.row).backward;
        map<T>(dy, saved, dx,
               [&](std::int64_t, const T* g, const T* s, T* to, std::int64_t n) { loop(a.parameters, g, s, to, n); });
    });
}

void dropout(const Dropout& d, const Array& x, const Array& y) {
    with_compute_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        map<T>(x, y,
               [&](std::int64_t start, const T* from, T* to, std::int64_t n) { dropout_tile(d, start, from, to, n); });
    });
}

void rrelu(RandomStream random, double lower, double upper, const Array& x, const Array& v, const Array& out) {
    with_compute_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        const T low = T(lower), step = T((upper - lower) / 65536);
        map<T>(x, v, out, [&](std::int64_t start, const T* gate, const T* from, T* to, std::int64_t n) {
            HalfWords source;
            for (std::int64_t done = 0; done < n; done += tile_size) {
                const std::int64_t count = n - done < tile_size ? n - done : tile_size;
                const std::uint16_t* const half_words = source.draw(random, start + done, count);
#pragma omp simd
                for (std::int64_t i = 0; i < count; ++i) {
                    const T slope = low + step * (T(half_words[i]) + T(0.5));
                    const T value = from[done + i];
                    to[done + i] = gate[done + i] > 0 ? value : slope * value;
                }
            }
        });
    });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
