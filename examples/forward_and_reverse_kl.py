"""One normal distribution fitted to a target with two modes, by the KL divergence forward and in reverse.

    python examples/forward_and_reverse_kl.py [picture.png]

Forward, D(p‖q), is supervised learning. D(p‖q) = H(p, q) − H(p), and H(p) does not depend on q: so what minimises it
minimises the cross-entropy E_p[−log q], which is the mean negative log likelihood of data drawn from p. Wherever p has
mass, q has to have some: the fit covers both modes, and the gap between them.

Reverse, D(q‖p), is maximum-entropy reinforcement learning (Levine, Reinforcement Learning and Control as Probabilistic
Inference, 2018, §2). With a reward r(x) = log p(x) + constant and the policy q, −D(q‖p) = E_q[r] + H(q) − constant: so
what minimises it earns the most reward at the least loss of entropy. Wherever p has no mass, q must have none: the
fit seeks one mode, of weight w, at the price of −ln w nats, and ignores the other. Which one depends on the start:
learning is local.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.divergence import kl, reverse_kl

Floats = npt.NDArray[np.float64]

X = np.linspace(-8, 8, 1601)  # the grid on which divergences are summed
WEIGHTS, MODES, WIDTH = np.array([0.6, 0.4]), np.array([-2.0, 2.0]), 0.6  # of the target
SAMPLES, STEPS, RATE = 2000, 400, 0.05  # of both ways to learn; the rate of the policy's


class Normal(NamedTuple):
    """What is fitted."""

    mean: float
    std: float


def log_target(x: Floats) -> Floats:
    """The log density of the target, but for a constant: a reward knows no normalisation."""
    density: Floats = np.exp(-(((x[:, None] - MODES) / WIDTH) ** 2) / 2) @ WEIGHTS
    return np.log(density)


def on_grid(log_density: Floats) -> Floats:
    """A density as probabilities of the points of X."""
    mass: Floats = np.exp(log_density - log_density.max())
    shares: Floats = mass / mass.sum()
    return shares


def target() -> Floats:
    """The target on X."""
    return on_grid(log_target(X))


def normal(fit: Normal) -> Floats:
    """A normal distribution on X."""
    return on_grid(-(((X - fit.mean) / fit.std) ** 2) / 2)


def maximum_likelihood(rng: np.random.Generator) -> Normal:
    """Draw data from the target; the likeliest normal distribution has their mean and standard deviation."""
    data = rng.choice(MODES, SAMPLES, p=WEIGHTS) + WIDTH * rng.standard_normal(SAMPLES)
    return Normal(float(data.mean()), float(data.std()))


def maximum_entropy_policy(rng: np.random.Generator, start: Normal) -> Normal:
    """Actions are drawn from the policy x = μ + σ·ε, which climbs the gradient of E[r(x)] + log σ.

    log σ is the entropy of a normal distribution but for a constant. r′(x) pulls to the mode that is responsible for x.
    """
    mean, std = start
    for _ in range(STEPS):
        noise = rng.standard_normal(SAMPLES)
        x = mean + std * noise
        near = WEIGHTS * np.exp(-(((x[:, None] - MODES) / WIDTH) ** 2) / 2)
        slope = (near * (MODES - x[:, None])).sum(axis=1) / near.sum(axis=1) / WIDTH**2
        mean += RATE * float(slope.mean())
        std += RATE * float((slope * noise).mean() + 1 / std)
    return Normal(mean, std)


def bars(curve: Floats, width: int = 80) -> str:
    """A distribution as a row of bars, for want of a better picture."""
    heights = curve[: X.size // width * width].reshape(width, -1).sum(axis=1)
    return "".join(" ▁▂▃▄▅▆▇█"[round(8 * height / heights.max())] for height in heights)


def draw(path: str, curves: dict[str, Floats]) -> None:
    """The densities as a picture, for which matplotlib has to be installed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(X, curve / (X[1] - X[0]), label=name)
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(path)


def main(picture: str = "") -> list[Normal]:
    """Fit both, print how far they are from the target either way, and show them."""
    rng = np.random.default_rng(0)
    fits = {
        "forward: maximum likelihood": maximum_likelihood(rng),
        "reverse: policy that began left": maximum_entropy_policy(rng, Normal(-1.0, 0.5)),
        "reverse: policy that began right": maximum_entropy_policy(rng, Normal(1.0, 0.5)),
    }
    curves = {"target": target()} | {name: normal(fit) for name, fit in fits.items()}
    print(f"{'':34}{'mean':>6}{'std':>6}{'D(p‖q)':>9}{'D(q‖p)':>9}   in nats; p is the target")
    for name, fit in fits.items():
        forward, reverse = kl(curves["target"], curves[name]), reverse_kl(curves["target"], curves[name])
        print(f"{name:34}{fit.mean:6.2f}{fit.std:6.2f}{forward:9.3f}{reverse:9.3f}")
    for name, curve in curves.items():
        print(f"\n{bars(curve)}\n{name:^80}")
    if picture:
        try:
            draw(picture, curves)
        except ImportError:
            print("\nThe picture needs matplotlib: pip install 'klcal[plot]'")
    return list(fits.values())


if __name__ == "__main__":
    main(*sys.argv[1:2])
