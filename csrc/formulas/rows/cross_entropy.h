// Cross-entropy of logits and its gradient, for a target of class indices or of probabilities. In the papers' symbols:
// p = softmax(x), w the class weights, s the label smoothing over n classes, Z = sum(exp(x)),
//   q_c  = (1 - s) [c = label] + s / n, or (1 - s) target_c + s / n
//   loss = -sum(w_c q_c log p_c) + z_loss log(Z)^2
//   dx_c = rate ((M + 2 z_loss log(Z)) p_c - w_c q_c),  M = sum(w_c q_c)
// A term is 0 if w_c q_c is 0, for any log p_c.
#pragma once

#include "formulas/rows/row.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// Shared by both kinds of targets.
template <class T>
struct CrossEntropy : Exponentials<T> {
    using typename Exponentials<T>::Local;
    static constexpr int columns = 1, group_outputs = 1;
    static constexpr bool adds_columns = true;

    CrossEntropyParameters p;

    explicit CrossEntropy(const CrossEntropyParameters& p) : p(p) {}

protected:
    // Merges b into a, relative to the larger of their tops. `expected` is the sum of weighted x - top, `mass` the sum
    // of its weights.
    template <class Record>
    GRADFUSE_HD void merge_records(Record& a, const Record& b) const {
        const double top = math::max(a.top, b.top);
        const auto moved = [&](const Record& r) { return r.mass == 0 ? 0 : r.expected + r.mass * (r.top - top); };
        a.e = a.e * this->weight(a.top, top) + b.e * this->weight(b.top, top);
        a.expected = moved(a) + moved(b);
        a.mass += b.mass;
        a.top = top;
    }
    static GRADFUSE_HD T product(T share, T x) { return share == 0 ? T(0) : share * x; }

    template <class Record>
    GRADFUSE_HD double log_of_all(const Record& r) const {
        return r.top + math::log(r.e);
    }
    template <class Record>
    GRADFUSE_HD double loss(const Record& r, double mass, double expected) const {
        const double log_z = log_of_all(r), log_e = math::log(r.e);
        return mass * log_e - expected + (p.z_loss == 0 ? 0 : p.z_loss * log_z * log_z);
    }
    // The factor of exp(x - the part's top) in dx / rate.
    template <class Record>
    GRADFUSE_HD double factor(const Record& r, double mass, Local l) const {
        const double all = p.z_loss == 0 ? mass : mass + 2 * p.z_loss * log_of_all(r);
        return all * this->weight(l.top, r.top) / r.e;
    }
};

// A row whose label is `ignore` gives 0, a row whose label does not exist gives NaN.
template <class T>
struct CrossEntropyOfLabels : CrossEntropy<T> {
    using typename CrossEntropy<T>::Local;
    struct Group {
        double label, logit, weight, rate;
    };
    struct Sums {
        T e, expected, missing;  // of exp(x - top), w (x - top), 1 - w
    };
    struct Record {
        double top, e, expected, mass;
    };
    struct Constants {
        T factor, share, hit, label, counts;
    };
    static constexpr bool picks = true, keeps = true;

    using CrossEntropy<T>::CrossEntropy;

    template <class P>
    GRADFUSE_HD void add(Sums& s, Local l, P, T e, T x) const {
        s.e += e;
        s.expected += x - l.top;
    }
    template <class P>
    GRADFUSE_HD void add(Sums& s, Local l, P, T e, T x, T w) const {
        s.e += e;
        s.expected += this->product(w, x - l.top);
        s.missing += 1 - w;
    }
    GRADFUSE_HD Record record(Local l, Sums s, double n) const { return {l.top, s.e, s.expected, n - s.missing}; }
    GRADFUSE_HD void merge(Record& a, const Record& b) const { this->merge_records(a, b); }

    GRADFUSE_HD double hit(Group g) const { return (1 - this->p.smoothing) * g.weight; }
    GRADFUSE_HD double share() const { return this->p.smoothing / this->p.classes; }
    GRADFUSE_HD double mass(const Record& r, Group g) const { return hit(g) + share() * r.mass; }
    GRADFUSE_HD bool exists(Group g) const { return (g.label >= 0) & (g.label < this->p.classes) & (g.weight >= 0); }
    GRADFUSE_HD void finish(const Record& r, Group g, double* out) const {
        const double expected =
            (hit(g) == 0 ? 0 : hit(g) * (g.logit - r.top)) + (share() == 0 ? 0 : share() * r.expected);
        const double loss = this->loss(r, mass(r, g), expected);
        out[0] = g.label == this->p.ignore ? 0 : exists(g) ? loss : math::nan<double>;
    }
    GRADFUSE_HD Constants constants(const Record& whole, Local l, Group g, std::int64_t at) const {
        const double rate = exists(g) ? g.rate : math::nan<double>;
        return {T(rate * this->factor(whole, mass(whole, g), l)), T(rate * share()), T(rate * hit(g)),
                T(g.label - double(at)), T(g.label != this->p.ignore)};
    }
    template <class P>
    GRADFUSE_HD Values<T, 1> map(Constants c, P i, T e, T w = 1) const {
        const T dx = e * c.factor - c.share * w - (i == P(c.label) ? c.hit : T(0));
        return {c.counts != 0 ? dx : T(0)};
    }
};

template <class T>
struct CrossEntropyOfProbabilities : CrossEntropy<T> {
    using typename CrossEntropy<T>::Local;
    struct Group {
        double rate;
    };
    struct Sums {
        T e, expected, mass;  // of exp(x - top), w q (x - top), w q
    };
    struct Record {
        double top, e, expected, mass;
    };
    struct Constants {
        T top, factor, rate;
    };
    static constexpr int inputs = 2;

    using CrossEntropy<T>::CrossEntropy;

    GRADFUSE_HD T q(T target, T w) const {
        return w * math::fma(T(1 - this->p.smoothing), target, T(this->p.smoothing / this->p.classes));
    }
    template <class P>
    GRADFUSE_HD void add(Sums& s, Local l, P, T e, T x, T target, T w = 1) const {
        const T share = q(target, w);
        s.e += e;
        s.expected += this->product(share, x - l.top);
        s.mass += share;
    }
    GRADFUSE_HD Record record(Local l, Sums s, double) const { return {l.top, s.e, s.expected, s.mass}; }
    GRADFUSE_HD void merge(Record& a, const Record& b) const { this->merge_records(a, b); }
    GRADFUSE_HD void finish(const Record& r, Group, double* out) const { out[0] = this->loss(r, r.mass, r.expected); }
    GRADFUSE_HD Constants constants(const Record& whole, Local l, Group g, std::int64_t) const {
        return {l.top, T(g.rate * this->factor(whole, whole.mass, l)), T(g.rate)};
    }
    template <class P>
    GRADFUSE_HD Values<T, 1> map(Constants c, P, T x, T target, T w = 1) const {
        return {math::row_exp(x - c.top) * c.factor - c.rate * q(target, w)};
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
