// "Reduce, then map" for channels: groups that may be long and few. Such a group is divided into slots, which depends
// only on its length, and a block makes the record of one slot. In a second launch each block merges the records of its
// groups in order and maps some of the elements. It goes backwards through memory, because the elements that the first
// launch read last are still in the L2 cache. (The last block of a group could merge the records in the first launch,
// but that needs a counter for each group, which is zero before.)
#pragma once

#include <cmath>

#include "cuda/reduce_map.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// The records of all groups, [slot][group].
template <class Record>
struct Slots {
    Record* records = nullptr;
    std::int64_t count = 0;
};

// The division of positions into `count` pieces of `each` positions, whole vectors.
struct Pieces {
    Pieces(std::int64_t length, std::int64_t wanted) {
        each = ((length + wanted - 1) / wanted + 7) / 8 * 8;
        count = (length + each - 1) / each;
    }
    std::int64_t each, count;
};
// Pieces have 32 KB of inputs if groups are not side by side.
template <class F, class S>
Pieces pieces_along(std::int64_t length) {
    constexpr std::int64_t each = 32 * 1024 / (F::inputs * std::int64_t(sizeof(S)));
    return {length, (length + each - 1) / each};
}
template <class F, class S>
Pieces slots_of(const Groups& g) {
    if (!g.across) return pieces_along<F, S>(g.length);
    // A block merges the records of 32 groups. With so few slots it reads more elements than records.
    const auto wanted = std::int64_t(std::sqrt(double(g.length))) / 4;
    return {g.length, wanted < 1 ? 1 : wanted < 256 ? wanted : 256};
}

// Pieces in whole vectors are copied into shared memory: of one group, or of a tile of 32 groups side by side.
template <class F, class S, class Stages, Layout L>
using ScheduleOfPieces =
    Schedule<256, vector_of<S, L>, L == Layout::any && !Stages::calls ? few_vectors<F, S, Stages, L> : 1, L,
             L == Layout::any ? Kept::nowhere : Kept::in_shared_memory>;
template <class F, class S, class Stages, Layout L>
using LoopOverPieces = Loop<F, S, Stages, ScheduleOfPieces<F, S, Stages, L>, false>;
// Positions of a tile that are copied at a time: 32 KB.
template <class F, class S>
constexpr int tile_positions = 32 * 1024 / (warp_size * F::inputs * int(sizeof(S)));

template <class F, class S, class Stages, Layout L>
struct OfPieces : LoopOverPieces<F, S, Stages, L> {
    using Base = LoopOverPieces<F, S, Stages, L>;
    using Record = typename F::Record;
    using Share = typename Base::Share;
    static constexpr int blocks_per_multiprocessor = L == Layout::any ? 2
                                                     : L == Layout::side_by_side || needs_room<F, S, Stages>
                                                         ? 3
                                                         : Threads<F>::blocks(256);

    Pieces pieces;
    std::int64_t tiles;  // of groups, one tile per block
    Slots<Record> slots;

    OfPieces(const Call<F, S, Stages>& call, const Pieces& pieces, const Slots<Record>& slots)
        : Base(call, width_for(call.groups.across, pieces.each), 1,
               Base::tiled ? tile_positions<F, S> : (pieces.each + Base::V - 1) / Base::V),
          pieces(pieces),
          tiles(blocks_for(call.groups.count, this->groups_of_block())),
          slots(slots) {}

    std::int64_t blocks() const { return tiles * pieces.count; }

    GRADFUSE_DEVICE Share share_of_piece(std::int64_t piece, std::int64_t tile) const {
        Share s = this->share(tile * this->groups_of_block() + this->own_group());
        if (!s.exists()) return s;
        s.begin = piece * pieces.each;
        if (s.begin + pieces.each < s.end) s.end = s.begin + pieces.each;
        s.enter(s.begin);
        return s;
    }

    // each(s) for the parts of a piece of a tile, when they have been copied.
    template <class Each>
    GRADFUSE_DEVICE void for_tiles(Share s, std::int64_t piece, std::int64_t tile, const Each& each) const {
        const std::int64_t first = tile * this->groups_of_block(), begin = piece * pieces.each,
                           left = this->groups.length - begin, end = begin + (left < pieces.each ? left : pieces.each);
        for (std::int64_t at = begin; at < end; at += this->block_vectors_) {
            const int positions = int(end - at < this->block_vectors_ ? end - at : this->block_vectors_);
            __syncthreads();  // the part before is no longer needed
            this->copy_tile(s, first, at, positions);
            if (!s.exists()) continue;
            s.end = at + positions;
            s.enter(s.begin = at);
            each(s);
        }
    }

private:
    static int width_for(bool across, std::int64_t each) {
        if (Base::tiled) return Base::threads / warp_size;
        const int most = Base::threads / (across ? warp_size : 1), least = Base::resident ? warp_size : 1;
        const int width = group_width((each + Base::V - 1) / Base::V, Base::resident ? 8 : Base::K, across ? 1 : 8);
        return width < least ? least : width < most ? width : most;
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
        const auto mine = [&] {
            if constexpr (ReduceSlots::tiled) {
                typename ReduceSlots::Part all{};
                this->for_tiles(s, slot, std::int64_t(blockIdx.x) % this->tiles, [&](const auto& part) {
                    const auto one = this->reduce_copied(part, stages, this->numbers(s.group));
                    if (one.count > 0) this->join(all, one);
                });
                return all;
            } else if constexpr (ReduceSlots::resident) {
                this->start_copies(s);
                return this->reduce_copied(s, stages, this->numbers(s.group));
            } else {
                return this->reduce_all(s, stages, this->numbers(s.group));
            }
        }();
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
    static constexpr bool maps = F::maps && (F::waits || !F::reduces),
                          copies = maps && MapSlots::resident && !MapSlots::tiled;

    // So that a block reads more elements than records.
    GRADFUSE_HD std::int64_t pieces_of_block() const { return this->across() ? 1 : 1 + this->slots.count / 512; }
    std::int64_t blocks() const {
        return this->tiles * ((this->pieces.count + pieces_of_block() - 1) / pieces_of_block());
    }

    std::int64_t shared_bytes() const {
        return Base::shared_bytes() + this->groups_of_block() * std::int64_t(sizeof(Constants));
    }

    GRADFUSE_DEVICE void operator()() const {
        const std::int64_t block = std::int64_t(gridDim.x) - 1 - blockIdx.x, tile = block % this->tiles;
        std::int64_t piece = block / this->tiles * pieces_of_block();
        const std::int64_t end = piece + pieces_of_block();
        Share s = this->share_of_piece(piece, tile);
        if constexpr (copies) this->start_copies(s);
        const Record whole = merged(s);
        if (piece == 0) this->finish(s, whole, 0);
        if constexpr (maps) {
            const auto& stages = this->stages.of_group(s.group, 0);
            const Constants constants = shared_constants(s, whole);
            map_piece(s, piece, tile, constants, stages);
            while (++piece < end && piece < this->pieces.count) {
                s = this->share_of_piece(piece, tile);
                if constexpr (copies) this->start_copies(s);
                map_piece(s, piece, tile, constants, stages);
            }
        }
    }

private:
    template <class OfGroup>
    GRADFUSE_DEVICE void map_piece(Share& s, std::int64_t piece, std::int64_t tile, const Constants& constants,
                                   const OfGroup& stages) const {
        const auto map = [&](const Share& part) {
            return [&, &part = part](int, int v, const auto& at, const auto& x) {
                this->map_vector(part, at, v, {}, constants, stages, x, [](int, const auto&) {});
            };
        };
        if constexpr (MapSlots::tiled) {
            this->for_tiles(s, piece, tile, [&](const Share& part) {
                this->for_resident(part, 0, part.vectors, stages, true, true, map(part));
            });
        } else if constexpr (copies) {
            this->for_copied(s, stages, true, map(s));
        } else {
            this->for_chunks(s, true, [&](int begin) { this->map_chunk(s, begin, {}, constants, stages); });
        }
    }
    // The first thread of a group has the result.
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
        Constants* const shared = reinterpret_cast<Constants*>(shared_memory<char>() + Base::shared_bytes());
        if (s.lane == 0) {
            const auto group = this->numbers(s.group);
            shared[this->own_group()] = this->f.constants(whole, this->f.local(0, 1, group, 0), group, 0);
        }
        __syncthreads();
        return shared[this->own_group()];
    }
};

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

// Runs the declarations of a call over channels. Each layout has its own kernels, and they sum in different orders. So
// the reduced arrays must be WideDense, or InVectors must be false.
template <class S, class Stages = NoStages, bool InVectors = true>
class ChannelLoop {
public:
    ChannelLoop(const ChannelShape& shape, const ReduceMapArrays& arrays, const Stages& stages = {})
        : groups_(channels_of(shape, 2)), arrays_(arrays), stages_(stages), is_empty_(shape.size() == 0) {}

    // One launch. False if groups do not fit in the registers or the shared memory of a block, or are empty.
    template <class F>
    bool on_chip(const F& f) const {
        if (is_empty_) return false;
        return run(f, [](const auto& call, auto layout) {
            constexpr Layout L = decltype(layout)::value;
            return loop_on_chip<L == Layout::side_by_side ? Layout::any : L, false>(call);
        });
    }

    // Makes the records of the slots of all groups. Also maps the elements if the map needs no record of a whole group.
    template <class F>
    Slots<typename F::Record> reduce(const F& f) const {
        if (is_empty_) return {};
        const Pieces pieces = slots_of<F, S>(Groups(groups_));
        const Slots<typename F::Record> slots{allocate_array<typename F::Record>(pieces.count * groups_.count()),
                                              pieces.count};
        run(f, [&](const auto& call, auto layout) {
            launch_pieces<ReduceSlots, decltype(layout)::value>(call, pieces, slots);
        });
        return slots;
    }

    // Maps the elements, and writes the numbers of the groups; these are 0 for groups without elements.
    template <class F>
    void map(const F& f, const Slots<typename F::Record>& slots = {}) const {
        if (is_empty_) return clear_numbers();
        const Groups groups(groups_);
        const Pieces pieces = !groups.across ? pieces_along<F, S>(groups.length)
                              : F::reduces   ? slots_of<F, S>(groups)
                                             : Pieces(groups.length, (groups.length + 127) / 128);
        run(f, [&](const auto& call, auto layout) {
            launch_pieces<MapSlots, decltype(layout)::value>(call, pieces, slots);
        });
    }

    // Writes only the numbers.
    template <class F>
    void finish(const F& f, const Slots<typename F::Record>& slots) const {
        if (is_empty_) return clear_numbers();
        const Call<F, S, NoStages> call(f, groups_, arrays_, {});
        launch_pieces<MapSlots, Layout::any>(call, Pieces(groups_.length(), 1), slots);
    }

private:
    template <Layout L>
    using Constant = std::integral_constant<Layout, L>;

    template <class F, class Run>
    auto run(const F& f, const Run& run) const {
        const Call<F, S, Stages> call(f, groups_, arrays_, stages_);
        if constexpr (InVectors && has_vectors<S>) {
            if (call.wide) return run(call, Constant<Layout::runs>());
            if (call.groups.across) return run(call, Constant<Layout::side_by_side>());
        }
        return run(call, Constant<Layout::any>());
    }
    template <template <class, class, class, Layout> class Kernel, Layout L, class F, class OwnStages>
    static void launch_pieces(const Call<F, S, OwnStages>& call, const Pieces& pieces,
                              const Slots<typename F::Record>& slots) {
        const Kernel<F, S, OwnStages, L> kernel(call, pieces, slots);
        launch(kernel, kernel.blocks(), kernel.shared_bytes(), kernel.threads_of_block());
    }
    void clear_numbers() const {
        for (const Array* out : arrays_.group_out) clear(out);
    }

    const Grouping groups_;
    const ReduceMapArrays arrays_;
    const Stages stages_;
    const bool is_empty_;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
