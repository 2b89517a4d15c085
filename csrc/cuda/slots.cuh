// "Reduce, then map" of groups that may be long and few: channels. Such a group is cut into slots, by its length alone,
// and a block makes a record of a slot. The blocks of a second launch each merge the records of their groups, in order,
// and map some of the elements, backwards through memory: what the first launch read last is still in the L2 cache.
// (The last block of a group to arrive could merge them, but for its counter, which would have to be cleared by a
// launch.)
#pragma once

#include <cmath>

#include "cuda/reduce_map.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// Channels: where they are not single elements of rows, in runs.
inline Grouping in_runs(const ChannelShape& s) { return channels_of(s, 2); }

// The records of all groups, [slot][group].
template <class Record>
struct Slots {
    Record* records = nullptr;
    std::int64_t count = 0;
};

// How positions are cut: pieces of so many each, whole vectors.
struct Pieces {
    Pieces(std::int64_t length, std::int64_t wanted) {
        each = ((length + wanted - 1) / wanted + 7) / 8 * 8;
        count = (length + each - 1) / each;
    }
    std::int64_t each, count;
};
constexpr std::int64_t along_piece = 8192, across_piece = 128;

inline Pieces slots_of(const Groups& g) {
    constexpr std::int64_t most = 256;
    // Across, a block merges the records of 32 groups: few enough that it reads more elements than records.
    const std::int64_t wanted = g.across ? std::int64_t(std::sqrt(double(g.length))) / 4 : g.length / along_piece;
    return {g.length, wanted < 1 ? 1 : wanted < most ? wanted : most};
}

template <class F, class S, class Stages, Layout L>
constexpr int vectors_at_a_time = L == Layout::any ? few_vectors<F, S, Stages> : 4 / F::inputs;
template <class F, class S, class Stages, Layout L>
using LoopOverPieces =
    Loop<F, S, Stages, Schedule<256, per_access<S>, vectors_at_a_time<F, S, Stages, L>, L, true>, false>;

template <class F, class S, class Stages, Layout L>
struct OfPieces : LoopOverPieces<F, S, Stages, L> {
    using Base = LoopOverPieces<F, S, Stages, L>;
    using Record = typename F::Record;
    using Share = typename Base::Share;
    static constexpr int blocks_per_multiprocessor = 2;

    Pieces pieces;
    std::int64_t tiles;  // of groups, one for a block
    Slots<Record> slots;

    OfPieces(const Call<F, S, Stages>& call, const Pieces& pieces, const Slots<Record>& slots)
        : Base(call, width_for(call.groups.across, pieces.each)),
          pieces(pieces),
          tiles(blocks_for(call.groups.count, this->per_block())),
          slots(slots) {}

    std::int64_t blocks() const { return tiles * pieces.count; }

    GRADFUSE_DEVICE Share share_of_piece(std::int64_t piece, std::int64_t tile) const {
        Share s = this->share(tile * (Base::threads / this->width()) + this->own_group());
        if (!s.exists()) return s;
        s.begin = piece * pieces.each;
        if (s.begin + pieces.each < s.end) s.end = s.begin + pieces.each;
        return s;
    }

private:
    static int width_for(bool across, std::int64_t each) {
        const int most = Base::threads / (across ? warp_size : 1);
        const int width = group_width((each + Base::V - 1) / Base::V, Base::K, across ? 1 : 8);
        return width < most ? width : most;
    }
};

template <class F, class S, class Stages, Layout L>
struct ReduceSlots : OfPieces<F, S, Stages, L> {
    using OfPieces<F, S, Stages, L>::OfPieces;

    GRADFUSE_DEVICE void operator()() const {
        const std::int64_t slot = std::int64_t(blockIdx.x) / this->tiles;
        auto s = this->share_of_piece(slot, std::int64_t(blockIdx.x) % this->tiles);
        const int present = this->present(s);
        const auto& stages = this->stages.of_group(s.group, 0);
        const auto mine = this->reduce_all(s, stages, this->numbers(s.group));
        const auto record = this->exchange(mine.record, present);
        if (s.lane == 0 && present > 0) this->slots.records[slot * this->groups.count + s.group] = record;
    }
};

template <class F, class S, class Stages, Layout L>
struct MapSlots : OfPieces<F, S, Stages, L> {
    using Base = OfPieces<F, S, Stages, L>;
    using Base::Base;
    using typename Base::Record;
    using typename Base::Share;
    using Constants = typename F::Constants;
    static constexpr bool maps = F::maps && (F::waits || !F::reduces);

    std::int64_t shared_bytes() const {
        return Base::shared_bytes() + this->per_block() * std::int64_t(sizeof(Constants));
    }

    GRADFUSE_DEVICE void operator()() const {
        const std::int64_t block = std::int64_t(gridDim.x) - 1 - blockIdx.x, piece = block / this->tiles;
        Share s = this->share_of_piece(piece, block % this->tiles);
        const Record whole = merged(s);
        if (piece == 0) this->finish(s, whole, 0);
        if constexpr (maps) {
            const auto& stages = this->stages.of_group(s.group, 0);
            const Constants constants = shared_constants(s, whole);
            this->for_chunks(s, true, [&](int begin) {
                typename Base::Held held;
                this->read(s, begin, stages, true, held);
                this->map(s, begin, {}, constants, stages, held, [](int, int, const auto&) {});
            });
        }
    }

private:
    // Of the threads of a group the first has it.
    GRADFUSE_DEVICE Record merged(const Share& s) const {
        const auto merge = [&](Record& a, const Record& b) { this->f.merge(a, b); };
        const int lanes = !this->across() && this->width() > warp_size ? warp_size : this->width();
        const std::int64_t each = (this->slots.count + lanes - 1) / lanes, begin = s.lane * each;
        Record record{};
        if constexpr (F::reduces) {
            for (std::int64_t i = begin; s.lane < lanes && i < begin + each && i < this->slots.count; ++i) {
                const Record next = this->slots.records[i * this->groups.count + s.group];
                if (i == begin) {
                    record = next;
                } else {
                    merge(record, next);
                }
            }
            const int present = each ? int((this->slots.count + each - 1) / each) : 0;
            if (this->across()) return this->exchange(record, present);
            if (s.lane < lanes) record = merge_lanes(record, merge, lanes, present);
        }
        return record;
    }
    GRADFUSE_DEVICE Constants shared_constants(const Share& s, const Record& whole) const {
        Constants* const shared = reinterpret_cast<Constants*>(shared_memory<Record>() + this->exchanged());
        if (s.lane == 0) {
            const auto group = this->numbers(s.group);
            shared[this->own_group()] = this->f.constants(whole, this->f.local(0, 1, group, 0), group, 0);
        }
        __syncthreads();
        return shared[this->own_group()];
    }
};

template <template <class, class, class, Layout> class Kernel, Layout L, class F, class S, class Stages>
void launch_pieces(const Call<F, S, Stages>& call, const Pieces& pieces, const Slots<typename F::Record>& slots) {
    const Kernel<F, S, Stages, L> kernel(call, pieces, slots);
    launch(kernel, kernel.blocks(), kernel.shared_bytes());
}

// The two kinds of kernels of reduce_map. `plain` points to stages, or is nullptr where there are no such kernels.
template <template <class, class, class, Layout> class Kernel, class S, class F, class Plain, class All>
void run_pieces(const F& f, const Grouping& g, const ReduceMapArrays& a, Plain plain, const All& all,
                const Pieces& pieces, const Slots<typename F::Record>& slots) {
    const Call<F, S, All> call(f, g, a, all);
    if constexpr (!std::is_null_pointer_v<Plain>) {
        if (plain && call.wide) {
            const Call<F, S, std::remove_cv_t<std::remove_pointer_t<Plain>>> plain_call(f, g, a, *plain);
            return launch_pieces<Kernel, Layout::runs>(plain_call, pieces, slots);
        }
    }
    launch_pieces<Kernel, Layout::any>(call, pieces, slots);
}

inline bool is_empty(const Grouping& g) { return g.length() == 0 || g.count() == 0; }

// False where groups do not fit in the registers of a block, or are empty.
template <class S, class F, class Plain, class All>
bool reduce_map_on_chip(const F& f, const Grouping& g, const ReduceMapArrays& a, const Plain* plain, const All& all) {
    if (is_empty(g)) return false;
    const Call<F, S, All> call(f, g, a, all);
    if (!plain || !call.wide) return loop_on_chip<Layout::any, false>(call);
    return loop_on_chip<Layout::runs, false>(Call<F, S, Plain>(f, g, a, *plain));
}

// The records of the slots of all groups. Where the map needs no record of a whole group, the elements are mapped, too.
template <class S, class F, class Plain, class All>
Slots<typename F::Record> reduce_slots(const F& f, const Grouping& g, const ReduceMapArrays& a, Plain plain,
                                       const All& all) {
    if (is_empty(g)) return {};
    const Pieces pieces = slots_of(Groups(g));
    const Slots<typename F::Record> slots{allocate_array<typename F::Record>(pieces.count * g.count()), pieces.count};
    run_pieces<ReduceSlots, S>(f, g, a, plain, all, pieces, slots);
    return slots;
}

struct Clear : Kernel {
    DoubleView to;
    std::int64_t count;

    GRADFUSE_DEVICE void operator()() const {
        const std::int64_t i = std::int64_t(blockIdx.x) * threads + threadIdx.x;
        if (i < count) to.set(i, 0);
    }
};

inline void clear(const Array* a) {
    if (a) launch(Clear{{}, DoubleView(a), a->size}, blocks_for(a->size, Clear::threads));
}
inline void clear_numbers(const ReduceMapArrays& a) {
    for (const Array* out : a.group_out) clear(out);
}

// The elements mapped, and the numbers of the groups, which of groups without elements are 0.
template <class S, class F, class Plain, class All>
void map_slots(const F& f, const Grouping& g, const ReduceMapArrays& a, Plain plain, const All& all,
               const Slots<typename F::Record>& slots = {}) {
    if (is_empty(g)) return clear_numbers(a);
    const Groups groups(g);
    const std::int64_t each = !groups.across ? along_piece : F::reduces ? slots_of(groups).each : across_piece;
    run_pieces<MapSlots, S>(f, g, a, plain, all, Pieces(g.length(), (g.length() + each - 1) / each), slots);
}

// The numbers alone.
template <class S, class F>
void finish_slots(const F& f, const Grouping& g, const ReduceMapArrays& a, const Slots<typename F::Record>& slots) {
    if (is_empty(g)) return clear_numbers(a);
    launch_pieces<MapSlots, Layout::any>(Call<F, S, NoStages>(f, g, a, {}), Pieces(g.length(), 1), slots);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
