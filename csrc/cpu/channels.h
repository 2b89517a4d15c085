// Loops over [outer][channels][inner] in which every channel has constants of its own or is reduced to sums.
//
// Where a channel's run is long (images) the constants are scalars of that run. Where it is short (dense layers, inner
// = 1) they are laid out once as a pattern, repeated to a useful length, and the array is read as rows of that pattern.
#pragma once

#include <cstdint>

#include "core/array.h"
#include "cpu/elementwise.h"
#include "cpu/heap.h"
#include "cpu/parallel.h"
#include "cpu/tile.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// K constants of one channel, or of each element of a run.
template <class T, int K>
struct Uniform {
    T value[K];
    GRADFUSE_HD T operator()(int k, std::int64_t) const { return value[k]; }
};
template <class T, int K>
struct PerElement {
    const T* value[K];
    GRADFUSE_HD T operator()(int k, std::int64_t i) const { return value[k][i]; }
};

struct ChannelLayout {
    static constexpr std::int64_t long_run = 32, useful_length = 512;

    explicit ChannelLayout(const ChannelShape& s) : shape(s), runs(s.inner >= long_run) {
        period = s.channels * s.inner;
        length = period;
        if (!runs && period > 0 && period < useful_length) length = period * (useful_length / period);
    }

    ChannelShape shape;
    bool runs;            // a channel's elements lie in runs long enough to be taken one by one
    std::int64_t period;  // channels * inner
    std::int64_t length;  // of the pattern: a multiple of the period

    std::int64_t channel_of(std::int64_t position) const { return position / shape.inner % shape.channels; }

    // Calls f(column, channel) for the columns of the pattern.
    template <class F>
    void for_columns(const F& f) const {
        for (std::int64_t column = 0; column < length; column += period) {
            if (shape.inner == 1) {
#pragma omp simd
                for (std::int64_t c = 0; c < shape.channels; ++c) f(column + c, c);
                continue;
            }
            for (std::int64_t c = 0; c < shape.channels; ++c) {
                for (std::int64_t i = 0; i < shape.inner; ++i) f(column + c * shape.inner + i, c);
            }
        }
    }
};

// The K constants of every channel.
template <class T, int K>
class ChannelTable {
public:
    // constants(c, value) fills the K values of channel c.
    template <class F>
    ChannelTable(const ChannelLayout& layout, const F& constants)
        : layout_(layout), width_(layout.runs ? layout.shape.channels : layout.length), data_(K * width_) {
        const ChannelShape& s = layout.shape;
        if (s.size() == 0) return;
        const std::int64_t copies = layout.runs ? 1 : s.inner, width = width_;
        T* const data = data_.data();
        const auto set = [&](std::int64_t c, std::int64_t first, std::int64_t n) {
            T value[K];
            constants(c, value);
            for (int k = 0; k < K; ++k) {
                for (std::int64_t i = first; i < first + n; ++i) data[k * width + i] = value[k];
            }
        };
        if (copies == 1) {
#pragma omp simd
            for (std::int64_t c = 0; c < s.channels; ++c) set(c, c, 1);
        } else {
            for (std::int64_t c = 0; c < s.channels; ++c) set(c, c * copies, copies);
        }
        if (layout.runs) return;
        for (int k = 0; k < K; ++k) {
            T* const row = data + k * width;
            for (std::int64_t i = layout.period; i < width; ++i) row[i] = row[i - layout.period];
        }
    }

    Uniform<T, K> of_channel(std::int64_t c) const {
        Uniform<T, K> u;
        for (int k = 0; k < K; ++k) u.value[k] = data_[k * width_ + c];
        return u;
    }
    PerElement<T, K> at(std::int64_t position) const {
        PerElement<T, K> p;
        for (int k = 0; k < K; ++k) p.value[k] = data_.data() + k * width_ + position;
        return p;
    }

    // Calls f(offset, count, constants) for the runs that make up elements [start, start + n).
    template <class F>
    void for_runs(std::int64_t start, std::int64_t n, const F& f) const {
        const std::int64_t unit = layout_.runs ? layout_.shape.inner : layout_.length;
        std::int64_t position = start % unit;
        for (std::int64_t done = 0; done < n; position = 0) {
            const std::int64_t left = n - done, run = unit - position < left ? unit - position : left;
            if (layout_.runs) {
                f(done, run, of_channel(layout_.channel_of(start + done)));
            } else {
                f(done, run, at(position));
            }
            done += run;
        }
    }

private:
    const ChannelLayout& layout_;
    const std::int64_t width_;
    const Heap<T> data_;
};

// Reductions: partial results are made in parallel over pieces cut by size alone, and combined in index order.

// Long runs: record = piece(start, n, channel) for every piece of a run, then combine(channel, record) in order.
template <class Record, class Piece, class Combine>
void reduce_runs(const ChannelLayout& layout, const Piece& piece, const Combine& combine) {
    const ChannelShape s = layout.shape;
    const std::int64_t pieces = (s.inner + tile_size - 1) / tile_size;  // of one run
    const std::int64_t all = s.outer * s.channels * pieces;
    Heap<Record> records(all);
    const std::int64_t per_task =
        s.size() <= 2 * block_size ? all : 1 + block_size / (s.inner < tile_size ? s.inner : tile_size);
    parallel((all + per_task - 1) / per_task, [&](std::int64_t task) {
        const std::int64_t end = (task + 1) * per_task < all ? (task + 1) * per_task : all;
        for (std::int64_t r = task * per_task; r < end; ++r) {
            const std::int64_t run = r / pieces, offset = r % pieces * tile_size, left = s.inner - offset;
            records[r] = piece(run * s.inner + offset, left < tile_size ? left : tile_size, run % s.channels);
        }
    });
    for (std::int64_t o = 0; o < s.outer; ++o) {
        for (std::int64_t c = 0; c < s.channels; ++c) {
            for (std::int64_t p = 0; p < pieces; ++p) combine(c, records[(o * s.channels + c) * pieces + p]);
        }
    }
}

// Patterns: rows are taken in groups and columns in strips; one task is a strip of a group.
struct Strips {
    static constexpr std::int64_t width = 512, group = 64;

    explicit Strips(const ChannelLayout& l)
        : layout(l),
          rows((l.shape.size() + l.length - 1) / l.length),
          strips((l.length + width - 1) / width),
          groups((rows + group - 1) / group) {}

    const ChannelLayout& layout;
    std::int64_t rows, strips, groups;

    // Calls f(row_group, first_column, columns).
    template <class F>
    void for_tasks(const F& f) const {
        const auto task = [&](std::int64_t t) {
            const std::int64_t column = t % strips * width, left = layout.length - column;
            f(t / strips, column, left < width ? left : width);
        };
        if (layout.shape.size() <= 2 * block_size) {
            for (std::int64_t t = 0; t < groups * strips; ++t) task(t);
        } else {
            parallel(groups * strips, task);
        }
    }

    // Calls f(start, columns) for each of the group's rows within the strip.
    template <class F>
    void for_rows(std::int64_t group_index, std::int64_t column, std::int64_t columns, const F& f) const {
        const std::int64_t end = (group_index + 1) * group < rows ? (group_index + 1) * group : rows;
        for (std::int64_t r = group_index * group; r < end; ++r) {
            const std::int64_t start = r * layout.length + column, left = layout.shape.size() - start;
            if (left > 0) f(start, left < columns ? left : columns);
        }
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
