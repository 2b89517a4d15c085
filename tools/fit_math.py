"""Derive the polynomial and rational coefficients of csrc/core/math.h (needs only mpmath; takes a few minutes).

Every fit is minimax in the weighted error, found by Lawson's iteration: least squares at 60 digits on Chebyshev points,
each point's weight multiplied by its error until all the peaks are level. Coefficients are then rounded one by one,
lowest power first, and those that remain are fitted again, so that little of the optimum is lost to rounding.
"""

import struct

from mpmath import mp, mpf

mp.dps = 60


def chebyshev(low, high, count):
    """Points of [low, high], dense towards both ends."""
    low, high = mpf(low), mpf(high)
    return [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * (i + mpf(1) / 2) / count) for i in range(count)]


def squares(high, count):
    """Points of [0, high^2]: squares of points dense towards `high` only."""
    return [x * x for x in chebyshev(-high, high, 2 * count)[count:]]


def rounded(x, dtype):
    """The float or double nearest to x."""
    return mpf(struct.unpack("f", struct.pack("f", x))[0] if dtype == "float" else float(x))


def lawson(xs, f, weight, p_degree, q_degree, known, steps=12):
    """The coefficients P0, Q0, P1, Q1 ... for which max |weight (P/Q - f)| over xs is least, some of them known already."""
    names = {("P", k) for k in range(p_degree + 1)} | {("Q", k) for k in range(q_degree + 1)}
    free = sorted(names - known.keys(), key=lambda name: (name[1], name[0]))
    level, c = [mpf(1)] * len(xs), dict(known)
    columns = [{n: x ** n[1] * (1 if n[0] == "P" else -y) for n in names} for x, y in zip(xs, f)]
    rows = [[column[name] for name in free] for column in columns]
    targets = [-sum(column[name] * value for name, value in known.items()) for column in columns]
    for _ in range(steps if free else 1):
        normal, right = mp.matrix(len(free), len(free)), mp.matrix(len(free), 1)
        for x, w, v, row, target in zip(xs, weight, level, rows, targets):
            scale = v * (w / denominator(c, x)) ** 2
            for i, a in enumerate(row):
                right[i] += scale * a * target
                for j, b in enumerate(row):
                    normal[i, j] += scale * a * b
        c.update(zip(free, mp.lu_solve(normal, right) if free else []))
        errors = [abs(w * (numerator(c, x) / denominator(c, x) - y)) for x, y, w in zip(xs, f, weight)]
        peak = max(errors)
        level = [v * (e / peak + mpf("1e-3")) for v, e in zip(level, errors)]
        level = [v / max(level) for v in level]
    return c, peak, free


def numerator(c, x):
    return sum(value * x**k for (name, k), value in c.items() if name == "P")


def denominator(c, x):
    return sum((value * x**k for (name, k), value in c.items() if name == "Q"), mpf(0)) or mpf(1)


def fit(title, dtype, xs, f, weight, p_degree, q_degree=0, p0=None, q0=1):
    """Print the rounded coefficients of P and Q with P/Q near f; P(0) may be given, Q(0) is."""
    f, weight = [f(x) for x in xs], [weight(x) for x in xs]
    known = {("Q", 0): mpf(q0)}
    if p0:
        known["P", 0] = mpf(p0)
    while True:
        c, error, free = lawson(xs, f, weight, p_degree, q_degree, known)
        if len(known) <= 2:
            best = error
        if not free:
            break
        known[free[0]] = rounded(c[free[0]], dtype)
    print(f"{title}, {dtype}: error 2^{float(mp.log(error, 2)):.1f}, before rounding 2^{float(mp.log(best, 2)):.1f}")
    for which in "PQ" if q_degree else "P":
        print(
            f"  {which}:",
            ", ".join(literal(c[name], dtype) for name in sorted(c) if name[0] == which),
            flush=True,
        )


def literal(x, dtype):
    return f"{float(x):.9g}f" if dtype == "float" else repr(float(x))


def exp_tail(r):  # exp(r) = 1 + r + r^2 P(r)
    return (mp.expm1(r) - r) / r**2


def log1p_tail(f):  # log1p(f) = f + f^2 P(f)
    return (mp.log1p(f) - f) / f**2


def atanh_tail(u):  # log1p(f) = f + s (u P(u) - f), s = f / (2 + f), u = s^2
    return 2 * (mp.atanh(mp.sqrt(u)) / mp.sqrt(u) - 1) / u


def tanh_tail(z):  # tanh(x) = x + x z P(z), z = x^2
    return (mp.tanh(mp.sqrt(z)) / mp.sqrt(z) - 1) / z


def mills(a):  # Phi(-a) / exp(-a^2 / 2)
    return mp.erfc(a / mp.sqrt(2)) * mp.exp(a * a / 2) / 2


def mills_rest(a):  # 1 / mills(a) = sqrt(2 pi) a + P(a) / Q(a)
    return 1 / mills(a) - mp.sqrt(2 * mp.pi) * a


def erf_tail(z):  # erf(x) = x + x P(z), z = x^2
    return mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1


def main():
    half_ln2 = mp.log(2) / 2 * mpf("1.002")
    relative = lambda r: r**2 / abs(mp.expm1(r))  # noqa: E731
    fit("exp_tail", "float", chebyshev(-half_ln2, half_ln2, 100), exp_tail, relative, 4, p0="0.5")
    fit("exp_tail", "double", chebyshev(-half_ln2, half_ln2, 100), exp_tail, relative, 9, p0="0.5")
    relative = lambda f: f**2 / abs(mp.log1p(f))  # noqa: E731
    fit("log1p_tail", "float", chebyshev(-0.25, 0.5, 100), log1p_tail, relative, 8, p0="-0.5")
    fit("log1p_tail", "double", chebyshev(0, mpf(1) / 25, 100), atanh_tail, lambda u: u, 6)
    fit("log1p_unit", "float", chebyshev(0, 1, 100), log1p_tail, relative, 8)
    fit("log1p_unit", "double", chebyshev(0, mpf(1) / 9, 100), atanh_tail, lambda u: u, 9)
    relative = lambda z: z / (1 + z * tanh_tail(z))  # noqa: E731
    fit("tanh_tail", "float", squares(mpf("0.268"), 60), tanh_tail, relative, 2)
    fit("tanh_tail", "double", squares(mpf("0.268"), 60), tanh_tail, relative, 6)
    fit("mills", "float", chebyshev(0, "14.5", 120), mills_rest, mills, 3, 4, p0="1.75", q0="0.875")
    fit("mills", "double", chebyshev(0, "38.6", 200), mills_rest, mills, 9, 10, p0="1.75", q0="0.875")
    relative = lambda z: 1 / (1 + erf_tail(z))  # noqa: E731
    fit("erf_tail", "float", squares(1, 100), erf_tail, relative, 6)
    fit("erf_tail", "double", squares(1, 100), erf_tail, relative, 11)


if __name__ == "__main__":
    main()
