#include "cpu/elementwise.h"
#include "cpu/half_words.h"
#include "cpu/kernels.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

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
