// The CPU's loop for "reduce, then map" (core/reduce_map.h). It has two schedules, for different layouts of a group's
// elements in memory (cpu/along.h, cpu/across.h).
//
// The parts of a group are reduced and their records merged; then the parts are mapped, the last one first, because it
// is still in cache. If this would leave threads without work, or jump through memory, all parts of all groups are
// reduced first. The results are the same bit for bit.
#pragma once

#include "cpu/across.h"
#include "cpu/along.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <Columns C, class F, class Stages>
void reduce_map_with(const F& f, const Grouping& g, const ReduceMapArrays& a, const Stages& stages) {
    if (g.across() || (is_short_row(g) && (C == Columns::none || a.periods == 1))) {
        Across<F, C, Stages>(f, g, a, stages).run();
    } else {
        Along<F, C, Stages>(f, g, a, stages).run();
    }
}

template <class F, class Stages = NoStages>
void reduce_map(const F& f, const Grouping& g, const ReduceMapArrays& a, const Stages& stages = {}) {
    constexpr double nothing = 0;
    if (g.count() == 0 || g.length() == 0) {
        for (const Array* sum : {a.column_sum[0], a.column_sum[1], a.group_out[0], a.group_out[1], a.group_out[2]}) {
            for (std::int64_t i = 0; sum && i < sum->size; ++i) Writer<double>(*sum).store(i, 1, &nothing);
        }
        return;
    }
    if constexpr (F::columns > 0) {
        if (a.column[0] || a.column[1]) {
            if constexpr (F::columns_per_run) {
                if (a.column_per_run) return Along<F, Columns::per_run, Stages>(f, g, a, stages).run();
            }
            return reduce_map_with<Columns::per_position>(f, g, a, stages);
        }
    }
    reduce_map_with<Columns::none>(f, g, a, stages);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
