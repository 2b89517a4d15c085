// The description of a formula: its name, its hyper-parameters and its documentation. Bindings, Python classes,
// tests, benchmarks, stubs and the documentation's tables are all made from it.
#pragma once

#include <limits>

namespace gradfuse {

// The values a hyper-parameter may take. NaN lies in no interval.
struct Interval {
    double low, high;
    bool open_low = false, open_high = false;
    const char* text = "";  // its text in the documentation and in errors

    constexpr bool contains(double v) const {
        return (open_low ? v > low : v >= low) && (open_high ? v < high : v <= high);
    }
};

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr Interval finite{-infinity, infinity, true, true, "a finite number"};
constexpr Interval at_least_zero{0, infinity, false, true, "a finite number >= 0"};
constexpr Interval above_zero{0, infinity, true, true, "a finite number > 0"};
constexpr Interval below_one{0, 1, false, true, "a number in [0, 1)"};
constexpr Interval unit_interval{0, 1, false, false, "a number in [0, 1]"};

// What the backward of a formula needs: the input or the output of the forward.
enum class Saves { x, y };

struct Parameter {
    const char* name = nullptr;
    double value = 0;  // default
    Interval interval = finite;
};

struct FormulaInfo {
    static constexpr int max_parameters = 2;

    const char* name;
    Saves saves;
    const char* formula;  // forward
    const char* source;   // the paper or the function that it matches
    Parameter parameters[max_parameters] = {};
    bool ascending = false;  // the first parameter must be at most the second
};
using RowInfo = FormulaInfo;

// A pair has two entries in the list of values. An optional number that is None has its default.
enum class Kind { number, pair, flag, optional };

struct Hyper {
    const char* name = nullptr;
    Kind kind = Kind::number;
    double value = 0, second = 0;  // the default; `second`: the default of a pair's second number
    Interval interval = finite;
};

// The groups of a normalization within each sample: the elements along `axis`, some neighboring channels, or one
// channel.
enum class Groups { rows, channel_groups, channels };

constexpr double machine_epsilon = -1;  // as a default: the epsilon of the type that the norm is computed in

struct NormInfo {
    static constexpr int max_parameters = 2, max_statistics = 2;

    const char* name;
    Groups groups;
    const char* formula;
    const char* source;
    bool has_bias;
    Hyper parameters[max_parameters] = {};
};

struct OptimizerInfo {
    static constexpr int max_hypers = 8, max_values = 10, max_slots = 3;

    const char* name;
    const char* formula;  // the update of one element
    const char* source;
    const char* slots[max_slots];  // the state: one array each per parameter
    Hyper hypers[max_hypers];      // in the order of the constructor's arguments, after `params`; the first is lr
    bool decoupled_weight_decay = false;  // the default of an argument that every optimizer has
    const char* initial_value = nullptr;  // the hyper-parameter whose value the state starts with; null: 0

    // The index in the values of the hyper-parameter called `hyper`, -1 if there is none.
    constexpr int place(const char* hyper) const {
        int at = 0;
        for (const Hyper& h : hypers) {
            if (!h.name) break;
            const char *a = h.name, *b = hyper;
            while (*a && *a == *b) ++a, ++b;
            if (*a == *b) return at;
            at += h.kind == Kind::pair ? 2 : 1;
        }
        return -1;
    }
};

}  // namespace gradfuse
