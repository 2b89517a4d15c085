// Loops over [outer][channels][inner] in which every channel has constants of its own or is reduced.
#pragma once

#include "core/backend.h"
#include "cuda/reduce.cuh"
#include "cuda/strides.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// The elements a thread takes together: a Philox block.
constexpr int channel_vector = 8;

// Calls for vectors of elements, with the constants of each one's channel: f.apply(i, n, constants), elements
// [i, i + n) in C order, constants[k][j] the k-th of element i + j. `table` is [K][channels].
template <class F, class T, int K>
struct ChannelMap : Kernel {
    static constexpr int V = channel_vector;

    F f;
    const T* table;
    Divider channels, inner;
    std::int64_t size;

    GRADFUSE_DEVICE void operator()() const {
        for (std::int64_t i = (std::int64_t(blockIdx.x) * threads + threadIdx.x) * V; i < size;
             i += std::int64_t(gridDim.x) * threads * V) {
            const int n = size - i < V ? int(size - i) : V;
            T constants[K][V];
            const std::int64_t row = inner.divide(i);
            std::int64_t at = i - row * inner.divisor, channel = row - channels.divide(row) * channels.divisor;
            if (at + n <= inner.divisor) {  // one channel
#pragma unroll
                for (int k = 0; k < K; ++k) {
                    const T c = table[k * channels.divisor + channel];
#pragma unroll
                    for (int j = 0; j < V; ++j) constants[k][j] = c;
                }
            } else {
#pragma unroll
                for (int j = 0; j < V; ++j) {
#pragma unroll
                    for (int k = 0; k < K; ++k) constants[k][j] = table[k * channels.divisor + channel];
                    if (++at < inner.divisor) continue;
                    at = 0;
                    if (++channel == channels.divisor) channel = 0;
                }
            }
            f.apply(i, n, constants);
        }
    }
};

template <class T, int K, class F>
void channel_map(const F& f, const ChannelShape& s, const T* table) {
    const ChannelMap<F, T, K> kernel{{}, f, table, Divider(s.channels, s.size()), Divider(s.inner, s.size()), s.size()};
    launch(kernel, blocks_for(s.size(), kernel.threads * kernel.V));
}

// How a reduction is cut: every channel into slots of consecutive elements, by the array's shape alone.
struct Slots {
    static constexpr std::int64_t wanted_blocks = 1024, least = 2048;

    explicit Slots(const ChannelShape& s) {
        const std::int64_t length = s.outer * s.inner;
        std::int64_t blocks = s.inner == 1 ? (s.channels + 255) / 256 : s.channels;
        if (blocks < 1) blocks = 1;
        count = wanted_blocks / blocks;
        const std::int64_t most = s.inner == 1 ? length / 64 : length / least;
        if (count > most) count = most;
        if (count < 1) count = 1;
        each = ((length + count - 1) / count + channel_vector - 1) / channel_vector * channel_vector;
    }
    std::int64_t count, each;  // each: outer * inner positions of a slot
};

// Per channel and slot an accumulator of f's elements: f.start(i, c) -> Terms for channel c from element i on,
// terms.add(i, n, wide) takes elements [i, i + n) of it, terms.result() is what accumulators merge.
// A block takes a slot of one channel: with inner > 1 consecutive elements of it are neighbours.
template <class F>
struct ReduceRuns : Kernel {
    using Total = typename F::Total;
    static constexpr int V = channel_vector, warps = threads / warp_size;

    F f;
    ChannelShape shape;
    Divider inner;
    std::int64_t slots, each;
    Total* totals;  // [slots][channels]

    GRADFUSE_DEVICE void operator()() const {
        const std::int64_t length = shape.outer * shape.inner;
        for (std::int64_t b = blockIdx.x; b < slots * shape.channels; b += gridDim.x) {
            const std::int64_t slot = b % slots, channel = b / slots, first = slot * each;
            const std::int64_t last = first + each < length ? first + each : length;
            const bool wide = shape.inner % V == 0 && each % V == 0;
            const int n = wide ? V : 1;
            auto terms = f.start(channel, element(channel, first < last ? first : 0));
            for (std::int64_t m = first + std::int64_t(threadIdx.x) * n; m < last; m += threads * n) {
                terms.add(element(channel, m), n, wide);
            }
            const Total total = block_reduce(terms.result(), shared_memory<Total>(), Merge{}, threads);
            if (threadIdx.x == 0) totals[slot * shape.channels + channel] = total;
        }
    }

private:
    struct Merge {
        GRADFUSE_DEVICE void operator()(Total& a, const Total& b) const { a.merge(b); }
    };
    GRADFUSE_DEVICE std::int64_t element(std::int64_t channel, std::int64_t m) const {
        const std::int64_t o = inner.divide(m);
        return (o * shape.channels + channel) * shape.inner + (m - o * shape.inner);
    }
};

// With inner == 1 a row holds every channel once: a warp takes 32 neighbouring channels, the block's warps take turns
// at the rows of a slot.
template <class F>
struct ReduceColumns : Kernel {
    using Total = typename F::Total;
    static constexpr int warps = threads / warp_size;

    F f;
    std::int64_t rows, channels, slots, each;
    Total* totals;  // [slots][channels]

    GRADFUSE_DEVICE void operator()() const {
        const std::int64_t tiles = (channels + warp_size - 1) / warp_size;
        const int lane = int(threadIdx.x) % warp_size, warp = int(threadIdx.x) / warp_size;
        for (std::int64_t b = blockIdx.x; b < slots * tiles; b += gridDim.x) {
            const std::int64_t slot = b / tiles, channel = b % tiles * warp_size + lane, first = slot * each;
            const std::int64_t last = first + each < rows ? first + each : rows;
            Total total{};
            if (channel < channels) {
                const std::int64_t own = first + warp;
                auto terms = f.start(channel, (own < last ? own : 0) * channels + channel);
                for (std::int64_t row = own; row < last; row += warps) terms.add(row * channels + channel, 1, false);
                total = terms.result();
            }
            Total* const scratch = shared_memory<Total>();
            __syncthreads();  // whoever used it has done
            scratch[threadIdx.x] = total;
            __syncthreads();
            if (warp == 0 && channel < channels) {
                for (int w = 1; w < warps; ++w) total.merge(scratch[w * warp_size + lane]);
                totals[slot * channels + channel] = total;
            }
        }
    }
};

// What reductions and constants meet in: one thread per channel, f(c, total), the slots merged in their order.
template <class F, class Total>
struct PerChannel : Kernel {
    F f;
    const Total* totals;
    std::int64_t slots, channels;

    GRADFUSE_DEVICE void operator()() const {
        for (std::int64_t c = std::int64_t(blockIdx.x) * threads + threadIdx.x; c < channels;
             c += std::int64_t(gridDim.x) * threads) {
            Total total{};
            for (std::int64_t s = 0; s < slots; ++s) total.merge(totals[s * channels + c]);
            f(c, total);
        }
    }
};

struct Nothing {
    GRADFUSE_DEVICE void merge(const Nothing&) {}
};

template <class F, class Total>
void per_channel(const F& f, std::int64_t channels, const Total* totals, std::int64_t slots) {
    const PerChannel<F, Total> kernel{{}, f, totals, slots, channels};
    launch(kernel, (channels + kernel.threads - 1) / kernel.threads);
}
template <class F>
void per_channel(const F& f, std::int64_t channels) {
    per_channel(f, channels, static_cast<const Nothing*>(nullptr), 0);
}

// finish(c, total) for every channel, total the reduction of f over it.
template <class F, class Finish>
void channel_reduce(const F& f, const ChannelShape& s, const Finish& finish) {
    using Total = typename F::Total;
    const Slots slots(s);
    const std::int64_t used = s.size() == 0 ? 0 : slots.count;
    auto* const totals = used ? allocate_array<Total>(slots.count * s.channels) : nullptr;
    const auto run = [&](const auto& kernel, std::int64_t blocks, std::int64_t scratch) {
        launch(kernel, blocks < most_blocks ? blocks : most_blocks, scratch * std::int64_t(sizeof(Total)));
    };
    if (used && s.inner == 1) {
        const ReduceColumns<F> kernel{{}, f, s.outer, s.channels, slots.count, slots.each, totals};
        run(kernel, slots.count * ((s.channels + warp_size - 1) / warp_size), kernel.threads);
    } else if (used) {
        const ReduceRuns<F> kernel{{}, f, s, Divider(s.inner, s.size()), slots.count, slots.each, totals};
        run(kernel, slots.count * s.channels, kernel.warps);
    }
    per_channel(finish, s.channels, totals, used);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
