"""What coldforge.eval's 95 % intervals cover, by simulation, beside the usual ones: tables for BENCHMARKS.md.

    python tools/eval_coverage.py                 # some ten minutes on one core
    python tools/eval_coverage.py --repeat 2000   # a quick look

A population says how likely a question is answered right, by one model or by two. Questions are drawn from it, samples
from them, and it is counted how often the interval holds the population's mean. Each line of a table is the worst of
many populations: equal questions, beta distributions from U-shaped to narrow, normal logits, and spikes (a few
questions that are always right among others that are all alike), with means from 0.5 to 99 %. Shares are symmetric in
right and wrong, so means above a half are looked at for differences only.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from coldforge.eval.intervals import difference_interval, reach, share_interval

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]
PairDraw = Callable[[np.random.Generator, tuple[int, int]], tuple[Floats, Floats]]
USUAL = {"shares": "Korn–Graubard", "differences": "paired t"}
SIZES = (5, 10, 20, 30, 100)
SAMPLES = (1, 4, 64)
_T = stats.t.ppf(0.975, np.maximum(np.arange(1000) - 1, 1))


class One(NamedTuple):
    name: str
    mean: float
    draw: Draw


class Two(NamedTuple):
    name: str
    difference: float
    draw: PairDraw


def shares() -> Iterator[One]:
    for mean in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5):
        yield One(f"all {mean:g}", mean, lambda rng, shape, mean=mean: np.full(shape, mean))  # type: ignore[misc]
        for c in (0.1, 0.3, 1, 3, 10):
            yield One(
                f"beta({c:g}) {mean:g}", mean,
                lambda rng, shape, mean=mean, c=c: rng.beta(mean * c, (1 - mean) * c, shape),  # type: ignore[misc]
            )  # fmt: skip
    for rest in (0.0, 0.02, 0.1, 0.3, 0.5, 0.8, 0.95):
        for spike in (0.01, 0.02, 0.03, 0.1, 0.3):
            yield One(
                f"{spike:.0%} right, others {rest:g}", rest * (1 - spike) + spike,
                lambda rng, shape, rest=rest, spike=spike: np.where(rng.random(shape) < spike, 1.0, rest),  # type: ignore[misc]
            )  # fmt: skip


def differences() -> Iterator[Two]:
    grid = np.linspace(0, 1, 4002)[1:-1]
    for mean in (0.02, 0.1, 0.5, 0.98):
        for step in (0.0, 0.05, 0.3):
            other = mean + step if mean < 0.6 else mean - step
            for c in (0.2, 1, 50):
                tables = [stats.beta.ppf(grid, m * c, (1 - m) * c) for m in (mean, other)]
                true = float(tables[1].mean() - tables[0].mean())
                for together in (0.0, 0.7, 1.0):
                    name = f"beta({c:g}) {mean:g} to {other:g}, correlation {together:g}"
                    yield Two(name, true, _pair(tables, together))
    for middle in (-5.0, -2.0, 0.0, 3.0):
        for wide in (1.0, 2.5):
            for shift in (0.0, 0.7, 2.0):
                for own in (0.0, 2.0):
                    true = _logistic(middle + shift, math.hypot(wide, own)) - _logistic(middle, wide)
                    name = f"logit {middle:g} ± {wide:g}, then {shift:+g} ± {own:g}"
                    yield Two(name, true, _shifted(middle, wide, shift, own))
    for rest in (0.0, 0.02, 0.1, 0.5):
        for spike in (0.02, 0.05, 0.1, 0.3):
            yield Two(f"all {rest:g}, {spike:.0%} gained", spike * (1 - rest), _spiked(rest, spike, both=False))
            yield Two(f"all {rest:g}, {spike:.0%} gained, as many lost", 0.0, _spiked(rest, spike, both=True))


def _logistic(middle: float, wide: float) -> float:
    """The mean of a normal logit's chance."""
    points, weights = np.polynomial.hermite_e.hermegauss(150)
    return float(weights @ special.expit(middle + wide * points) / weights.sum())


def _shifted(middle: float, wide: float, shift: float, own: float) -> PairDraw:
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        a = middle + wide * rng.normal(size=shape)
        return special.expit(a), special.expit(a + shift + own * rng.normal(size=shape))

    return draw


def _pair(tables: list[Floats], together: float) -> PairDraw:
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        first, second = rng.normal(size=shape), rng.normal(size=shape)
        second = together * first + np.sqrt(1 - together**2) * second
        places = [(special.ndtr(z) * len(tables[0])).astype(int) for z in (first, second)]
        return tables[0][places[0]], tables[1][places[1]]

    return draw


def _spiked(rest: float, spike: float, *, both: bool) -> PairDraw:
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        a, b = (np.where(rng.random(shape) < spike, 1.0, rest) for _ in range(2))
        return (a if both else np.full(shape, rest)), b

    return draw


def usual_share(values: Floats, samples: int) -> tuple[Floats, Floats]:
    """Korn and Graubard's interval."""
    n = values.shape[-1]
    p, variance = values.mean(-1), values.var(-1, ddof=1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(variance > 0, p * (1 - p) / variance, n)
    effective = np.minimum(effective, n * samples) * (stats.t.ppf(0.975, n * samples - 1) / _T[n]) ** 2
    with np.errstate(invalid="ignore"):
        low = special.betaincinv(p * effective, (1 - p) * effective + 1, 0.025)
        high = special.betaincinv(p * effective + 1, (1 - p) * effective, 0.975)
    return np.where(p > 0, low, 0.0), np.where(p < 1, high, 1.0)


def usual_difference(values: Floats) -> tuple[Floats, Floats]:
    """The paired t interval."""
    n = values.shape[-1]
    half = _T[n] * values.std(-1, ddof=1) / np.sqrt(n)
    return values.mean(-1) - half, values.mean(-1) + half


class Cell(NamedTuple):
    name: str
    ours: float
    usual: float
    width: float  # ours to the usual's, the median over draws


def cell(name: str, true: float, ours: tuple[Floats, ...], usual: tuple[Floats, Floats]) -> Cell:
    covers = (float(np.mean((low <= true + 1e-9) & (true - 1e-9 <= high))) for low, high in (ours[:2], usual))
    with np.errstate(divide="ignore", invalid="ignore"):
        return Cell(name, next(covers), next(covers), float(np.median((ours[1] - ours[0]) / (usual[1] - usual[0]))))


def cells(kind: str, n: int, samples: int, repeat: int) -> list[Cell]:
    rng, shape = np.random.default_rng([n, samples]), (repeat, n)
    found = []
    if kind == "shares":
        for one in shares():
            values = rng.binomial(samples, one.draw(rng, shape)) / samples
            found.append(cell(one.name, one.mean, share_interval(values), usual_share(values, samples)))
    else:
        for two in differences():
            a, b = two.draw(rng, shape)
            a, b = rng.binomial(samples, a) / samples, rng.binomial(samples, b) / samples
            ours = difference_interval(b - a, reach=reach(a, b, (samples, samples)))
            found.append(cell(two.name, two.difference, ours, usual_difference(b - a)))
    return found


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10_000, help="draws of each population")
    parser.add_argument("--kinds", nargs="+", choices=tuple(USUAL), default=tuple(USUAL), help="which tables")
    options = parser.parse_args()
    repeat = options.repeat
    for kind in options.kinds:
        usual = USUAL[kind]
        print(f"\n{kind}, {repeat:,} draws of each population\n")
        print(f"| questions | samples | populations | least, ours | where | least, {usual} | width, ours : {usual} |")
        print("|---|---|---|---|---|---|---|")
        for n in SIZES:
            for samples in SAMPLES:
                found = cells(kind, n, samples, repeat)
                worst = min(found, key=lambda cell: cell.ours)
                least = min(cell.usual for cell in found)
                widths = [cell.width for cell in found if np.isfinite(cell.width)]
                print(
                    f"| {n} | {samples} | {len(found)} | {100 * worst.ours:.1f} % | {worst.name} "
                    f"| {100 * least:.1f} % | {np.median(widths):.2f} |", flush=True
                )  # fmt: skip


if __name__ == "__main__":
    main()
