// Row-wise loops: softmax, the losses and maxout.
#include <cmath>

#include "cpu/elementwise.h"
#include "cpu/heap.h"
#include "cpu/kernels.h"
#include "cpu/sum.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

template <class T>
T largest(const T* x, std::int64_t n) {
    return maximum(n, -math::inf<T>, [&](std::int64_t i) { return x[i]; });
}

// Sum of f(i) in T within a tile, in double across tiles: right to float rounding however long the row.
template <class T, class F>
double long_sum(std::int64_t n, const F& f) {
    double total = 0;
    for (std::int64_t done = 0; done < n; done += tile_size) {
        const std::int64_t left = n - done;
        total += double(sum<T>(left < tile_size ? left : tile_size, [&](std::int64_t i) { return f(done + i); }));
    }
    return total;
}

// e = exp(x - top), its sum returned.
template <class T>
double exponentials(const T* x, T top, T* e, std::int64_t n) {
    return long_sum<T>(n, [&](std::int64_t i) { return e[i] = math::exp(x[i] - top); });
}

template <class T>
void softmax_row(bool log, const T* x, T* y, std::int64_t n) {
    const T top = largest(x, n);
    if (log) {
        const double total = long_sum<T>(n, [&](std::int64_t i) { return math::exp(x[i] - top); });
        const T log_total = T(std::log(total));
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - top) - log_total;
    } else {
        const T factor = T(1 / exponentials(x, top, y, n));
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) y[i] *= factor;
    }
}

// dx of an element, and the term that its row's total is the sum of.
template <bool log, class T>
struct SoftmaxGradient {
    static T term(T dy, T y) { return log ? dy : dy * y; }
    static T dx(T dy, T y, T total) { return log ? dy - math::exp(y) * total : (dy - total) * y; }
};

// Rows along an axis: contiguous ones are read where they lie, others gathered.
template <class T>
class RowReader {
public:
    RowReader(const Array& a, const ChannelShape& s) : read_(a), shape_(s) {}

    const T* operator()(std::int64_t row, T* scratch) const {
        const std::int64_t n = shape_.channels;
        if (shape_.inner == 1) return read_(row * n, n, scratch);
        for (std::int64_t c = 0; c < n; ++c) {
            scratch[c] = *read_(element(shape_, row, c), 1, scratch + c);
        }
        return scratch;
    }
    static std::int64_t element(const ChannelShape& s, std::int64_t row, std::int64_t c) {
        return (row / s.inner * s.channels + c) * s.inner + row % s.inner;
    }

private:
    const Reader<T> read_;
    const ChannelShape shape_;
};

template <class T>
class RowWriter {
public:
    RowWriter(const Array& a, const ChannelShape& s) : write_(a), shape_(s) {}

    T* operator()(std::int64_t row, T* scratch) const {
        return shape_.inner == 1 ? write_(row * shape_.channels, scratch) : scratch;
    }
    void commit(std::int64_t row, const T* from) const {
        const std::int64_t n = shape_.channels;
        if (shape_.inner == 1) return write_.commit(row * n, n, from);
        for (std::int64_t c = 0; c < n; ++c) {
            const std::int64_t i = RowReader<T>::element(shape_, row, c);
            if (write_.direct()) {
                *write_(i, nullptr) = from[c];
            } else {
                write_.store(i, 1, from + c);
            }
        }
    }

private:
    const Writer<T> write_;
    const ChannelShape shape_;
};

}  // namespace

void softmax(const ChannelShape& s, bool log, const Array& x, const Array& y) {
    with_compute_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        const RowReader<T> read(x, s);
        const RowWriter<T> write(y, s);
        for_row_blocks(s.outer * s.inner, s.channels, [&](std::int64_t first, std::int64_t last) {
            const Heap<T> scratch(s.channels);
            for (std::int64_t row = first; row < last; ++row) {
                T* const to = write(row, scratch.data());
                softmax_row(log, read(row, scratch.data()), to, s.channels);
                write.commit(row, to);
            }
        });
    });
}

namespace {

// While a row's dx is written the next row's total is made: memory is read without a pause.
template <bool log, class T>
void softmax_backward_rows(const RowReader<T>& read_dy, const RowReader<T>& read_y, const RowWriter<T>& write,
                           std::int64_t first, std::int64_t last, std::int64_t n) {
    using Gradient = SoftmaxGradient<log, T>;
    struct Row {
        const T *dy, *y;
    };
    const Heap<T> scratch(5 * n);
    T* const out = scratch.data() + 4 * n;
    const auto row_at = [&](std::int64_t row) {
        T* const own = scratch.data() + row % 2 * 2 * n;
        return Row{read_dy(row, own), read_y(row, own + n)};
    };
    Row now = row_at(first);
    double total = long_sum<T>(n, [&](std::int64_t i) { return Gradient::term(now.dy[i], now.y[i]); });
    for (std::int64_t row = first; row < last; ++row) {
        const Row next = row + 1 < last ? row_at(row + 1) : now;
        T* const dx = write(row, out);
        const T t = T(total);
        total = long_sum<T>(n, [&](std::int64_t i) {
            dx[i] = Gradient::dx(now.dy[i], now.y[i], t);
            return Gradient::term(next.dy[i], next.y[i]);
        });
        write.commit(row, dx);
        now = next;
    }
}

}  // namespace

void softmax_backward(const ChannelShape& s, bool log, const Array& dy, const Array& y, const Array& dx) {
    with_compute_type(dy.dtype, [&](auto t) {
        using T = decltype(t);
        const RowReader<T> read_dy(dy, s), read_y(y, s);
        const RowWriter<T> write(dx, s);
        for_row_blocks(s.outer * s.inner, s.channels, [&](std::int64_t first, std::int64_t last) {
            (log ? softmax_backward_rows<true, T> : softmax_backward_rows<false, T>)(read_dy, read_y, write, first,
                                                                                     last, s.channels);
        });
    });
}

namespace {

// -sum of q * log softmax(x), q = (1 - smoothing) * target + smoothing / n, and scale times its gradient.
template <class T>
double cross_entropy_row(const T* x, const T* target, std::int64_t label, double smoothing, double scale, T* dx,
                         std::int64_t n) {
    const T keep = T(1 - smoothing), spread = T(smoothing / double(n));
    const T top = largest(x, n);
    const double target_logit = target ? 0 : double(x[label]) - double(top);  // before dx, which may be x, is written
    const auto shifted = [&](std::int64_t i) { return x[i] - top; };
    const double all_logits = !target && smoothing > 0 ? long_sum<T>(n, shifted) : 0;
    double mass = 1, expected = (keep > 0 ? double(keep) * target_logit : 0) +
                                (smoothing > 0 ? smoothing / double(n) * all_logits : 0);
    if (target) {
        const auto q = [&](std::int64_t i) { return math::fma(keep, target[i], spread); };
        mass = (1 - smoothing) * sum(n, [&](std::int64_t i) { return target[i]; }) + smoothing;
        expected = sum(n, [&](std::int64_t i) { return q(i) * shifted(i); });
    }
    const double total = exponentials(x, top, dx, n);
    const T factor = T(scale * mass / total), rate = T(scale);
    if (target) {
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) dx[i] = dx[i] * factor - rate * math::fma(keep, target[i], spread);
    } else {
        const T share = rate * spread;
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) dx[i] = dx[i] * factor - share;
        dx[label] -= rate * keep;
    }
    return mass * std::log(total) - expected;
}

}  // namespace

void cross_entropy(const Array& logits, const Array& target, double label_smoothing, Reduction reduction,
                   const Array& loss, const Array& dlogits) {
    const std::int64_t rows = logits.shape[0], n = logits.shape[1];
    const double scale = reduction == Reduction::mean ? 1 / double(rows) : 1;
    const bool indices = target.dtype == DType::i64;
    const Heap<double> losses(rows);
    with_compute_type(logits.dtype, [&](auto t) {
        using T = decltype(t);
        const Reader<T> read(logits), read_target(target);
        const Writer<T> write(dlogits);
        for_row_blocks(rows, n, [&](std::int64_t first, std::int64_t last) {
            const Heap<T> scratch(n), target_scratch(n), out(n);
            for (std::int64_t row = first; row < last; ++row) {
                const T* const x = read(row * n, n, scratch.data());
                T* const dx = write(row * n, out.data());
                losses[row] = cross_entropy_row(x, indices ? nullptr : read_target(row * n, n, target_scratch.data()),
                                                indices ? static_cast<const std::int64_t*>(target.data)[row] : 0,
                                                label_smoothing, scale, dx, n);
                write.commit(row * n, n, dx);
            }
        });
    });
    const Writer<double> write_loss(loss);
    if (reduction == Reduction::none) return write_loss.store(0, rows, losses.data());
    double total = 0;
    for (std::int64_t row = 0; row < rows; ++row) total += losses[row];
    if (reduction == Reduction::mean) total /= double(rows);
    write_loss.store(0, 1, &total);
}

void mse_loss(const Array& pred, const Array& target, Reduction reduction, const Array& loss, const Array& dpred) {
    const std::int64_t n = pred.size, blocks = (n + block_size - 1) / block_size;
    const double scale = reduction == Reduction::mean ? 1 / double(n) : 1;
    const bool each = reduction == Reduction::none;
    const Heap<double> partial(blocks);
    with_compute_type(pred.dtype, [&](auto t) {
        using T = decltype(t);
        const Reader<T> read_pred(pred), read_target(target);
        const Writer<T> write(dpred), write_loss(loss);
        const T factor = T(2 * scale);
        const auto block = [&](std::int64_t k) {
            Buffer<T> a, b, c;
            double total = 0;
            const std::int64_t left = n - k * block_size;
            for_tiles(k * block_size, left < block_size ? left : block_size, false,
                      [&](std::int64_t start, std::int64_t count) {
                          const T* const p = read_pred(start, count, a.data);
                          const T* const q = read_target(start, count, b.data);
                          total += sum_of_squares(count, [&](std::int64_t i) { return p[i] - q[i]; });
                          if (each) {
                              T* const l = write_loss(start, c.data);
#pragma omp simd
                              for (std::int64_t i = 0; i < count; ++i) l[i] = (p[i] - q[i]) * (p[i] - q[i]);
                              write_loss.commit(start, count, l);
                          }
                          T* const d = write(start, a.data);
#pragma omp simd
                          for (std::int64_t i = 0; i < count; ++i) d[i] = factor * (p[i] - q[i]);
                          write.commit(start, count, d);
                      });
            partial[k] = total;
        };
        if (blocks <= 2) {
            for (std::int64_t k = 0; k < blocks; ++k) block(k);
        } else {
            parallel(blocks, block);
        }
    });
    if (each) return;
    double total = 0;
    for (std::int64_t k = 0; k < blocks; ++k) total += partial[k];
    total *= scale;
    Writer<double>(loss).store(0, 1, &total);
}

namespace {

// The pieces of a maxout unit lie a group apart: [outer][pieces][group], group = units * inner.
struct Pieces {
    Pieces(const ChannelShape& s, int pieces) : pieces(pieces), outer(s.outer), group(s.channels / pieces * s.inner) {}

    int pieces;
    std::int64_t outer, group;

    std::int64_t start(std::int64_t o, int k, std::int64_t at) const { return (o * pieces + k) * group + at; }

    // Calls f(o, at, count) for tiles of each output group, in parallel.
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
