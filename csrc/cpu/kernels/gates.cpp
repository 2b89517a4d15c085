#include "cpu/elementwise.h"
#include "cpu/kernels.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

// act(z) of a tile, in `scratch`; z itself if there is no activation.
template <class T>
const T* activated(const Activation& a, const T* z, T* scratch, std::int64_t n) {
    if (a.row < 0) return z;
    activation_loops<T>(a.row).forward(a.parameters, z, scratch, n);
    return scratch;
}

// out = a * b; out may be a or b.
template <class T>
void multiply(const T* a, const T* b, T* out, std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) out[i] = a[i] * b[i];
}

}  // namespace

void gated_forward(const Activation& activation, const Array& a, const Array& gate, const Array& y) {
    with_compute_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        const Reader<T> read_a(a), read_gate(gate);
        const Writer<T> write(y);
        for_blocks(y.size, [&](std::int64_t begin, std::int64_t n) {
            Buffer<T> scratch_a, scratch_gate, scratch_f;
            for_tiles(begin, n, false, [&](std::int64_t start, std::int64_t count) {
                const T* const x = read_a(start, count, scratch_a.data);
                const T* const z = read_gate(start, count, scratch_gate.data);
                T* const to = write(start, scratch_a.data);
                multiply(x, activated(activation, z, scratch_f.data, count), to, count);
                write.commit(start, count, to);
            });
        });
    });
}

void gated_backward(const Activation& activation, const Array& dy, const Array& a, const Array& gate, const Array& da,
                    const Array& dgate) {
    with_compute_type(a.dtype, [&](auto t) {
        using T = decltype(t);
        const Reader<T> read_dy(dy), read_a(a), read_gate(gate);
        const Writer<T> write_da(da), write_dgate(dgate);
        for_blocks(dy.size, [&](std::int64_t begin, std::int64_t n) {
            Buffer<T> scratch_dy, scratch_a, scratch_gate, scratch_f;
            for_tiles(begin, n, false, [&](std::int64_t start, std::int64_t count) {
                const T* const g = read_dy(start, count, scratch_dy.data);
                const T* const x = read_a(start, count, scratch_a.data);
                const T* const z = read_gate(start, count, scratch_gate.data);
                const T* const f = activated(activation, z, scratch_f.data, count);
                T* const to_gate = write_dgate(start, scratch_a.data);
                multiply(g, x, to_gate, count);
                if (activation.row >= 0) {
                    const ActivationLoops<T>& loops = activation_loops<T>(activation.row);
                    loops.backward(activation.parameters, to_gate, loops.saves == Saves::x ? z : f, to_gate, count);
                }
                write_dgate.commit(start, count, to_gate);
                T* const to_a = write_da(start, scratch_dy.data);
                multiply(g, f, to_a, count);
                write_da.commit(start, count, to_a);
            });
        });
    });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
