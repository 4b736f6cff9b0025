"""Gradients on which the scripts of the pages are compared with the library, and the comparison."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mtl_tutorial import weighting

from .small_book import ROOT

SCRIPTS = ROOT / "book" / "_ext" / "touch_static"
METHODS: dict[str, Any] = {
    "sum": weighting.Equal,
    "MGDA": weighting.MGDA,
    "PCGrad": weighting.PCGrad,
    "UPGrad": weighting.UPGrad,
    "CAGrad": weighting.CAGrad,
    "IMTL-G": weighting.IMTLG,
    "Nash-MTL": weighting.NashMTL,
    "Aligned-MTL": weighting.AlignedMTL,
}
IN_NODE = """
const { methods } = require(process.argv[1]);
const all = JSON.parse(require("fs").readFileSync(0));
console.log(JSON.stringify(all.map(gramian =>
  Object.values(methods).map(method => method(gramian)))));
"""


class InOrder:
    """In place of PCGrad's random generator: cut against task 1, 2, 3, as the figure does."""

    def permutation(self, count: int) -> range:
        return range(count)


def grid() -> list[np.ndarray]:
    """Two and three gradients: a plane, unlike scales, and what is zero, equal or opposite."""
    found = []
    for tasks in (2, 3):
        for lengths in product([0, 1, 3], repeat=tasks):
            for turns in product([0, 60, 90, 115, 180, 240], repeat=tasks - 1):
                angles = np.deg2rad([0, *turns])
                found.append(np.array(lengths)[:, None] * np.c_[np.cos(angles), np.sin(angles)])
        draws = np.random.default_rng(tasks)
        for powers in product([-6, -3, 0, 3, 6], repeat=tasks):
            if tasks == 2 or max(powers) - min(powers) <= 6:  # beyond it, rounding decides
                found.append(draws.normal(size=(tasks, 5)) * 10.0 ** np.array(powers)[:, None])
        line = draws.normal(size=5)
        for scale, factors in product(
            [1e-6, 1, 1e6], product([1, -1, 2, 0, -0.5], repeat=tasks - 1)
        ):
            found.append(scale * np.array([1, *factors])[:, None] * line)
    return found


def library(name: str, jacobian: np.ndarray) -> np.ndarray:
    """Return the library's weights."""
    method = METHODS[name]()
    if name == "PCGrad":
        method.generator = InOrder()
    weights: np.ndarray = method(np.zeros(len(jacobian)), jacobian @ jacobian.T)
    return weights


def differences(jacobians: list[np.ndarray], found: list[list[list[float]]]) -> list[str]:
    """Compare what a script found, a list of methods' weights for each Jacobian, with the library.

    The steps must agree to 1e-6 of their length. So must the weights of gradients that are linearly
    independent: of others several weights can make the same step.
    """
    wrong = []
    for jacobian, each in zip(jacobians, found, strict=True):
        lengths = np.linalg.norm(jacobian, axis=1)
        units = jacobian[lengths > 0] / lengths[lengths > 0, None]
        independent = np.linalg.matrix_rank(units, tol=1e-6) == len(units)
        for name, weights in zip(METHODS, each, strict=True):
            expected = library(name, jacobian)
            accuracy = 1e-6
            if name == "Aligned-MTL":  # its eigenvalues are no better than the Gramian's rounding
                accuracy += 2e-15 * (lengths.max() / min(lengths[lengths > 0], default=1)) ** 2
            apart = np.linalg.norm((np.array(weights) - expected) @ jacobian)
            size = np.linalg.norm(expected @ jacobian)
            same = apart <= accuracy * size + 1e-9 * min(1, lengths.max())
            if independent:
                rounding = 1e-12 * np.abs(expected).max()
                same = same and np.allclose(weights, expected, accuracy, rounding)
            if not same:
                wrong.append(f"{name} of {jacobian.tolist()}: {weights}, not {expected.tolist()}")
    return wrong


def as_json(jacobians: list[np.ndarray]) -> str:
    """Return the Gramians, exactly."""
    return json.dumps([(jacobian @ jacobian.T).tolist() for jacobian in jacobians])


def script(name: str) -> Path:
    """Return a script of the pages."""
    return SCRIPTS / name
