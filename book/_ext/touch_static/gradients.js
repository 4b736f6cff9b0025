// The weights that eight methods give to a few tasks, from the Gramian of their gradients. Each
// function is the one of the same name in mtl_tutorial/weighting, where the formulas are explained;
// a test compares the two. No drawing here: `node -e 'require("./gradients.js")'` works as well.
"use strict";

const gradients = (() => {
  const sum = values => values.reduce((total, value) => total + value, 0);
  const dot = (a, b) => sum(a.map((value, i) => value * b[i]));
  const length = a => Math.sqrt(dot(a, a));
  const add = (a, b, factor = 1) => a.map((value, i) => value + factor * b[i]);
  const combine = (weights, vectors) =>
    vectors.reduce((total, v, k) => add(total, v, weights[k]), vectors[0].map(() => 0));
  const gramian = rows => rows.map(a => rows.map(b => dot(a, b)));

  // Eigenvalues of a symmetric matrix in ascending order, and their vectors: Jacobi's rotations.
  function eigen(matrix) {
    const a = matrix.map(row => [...row]), all = [...a.keys()];
    const vectors = all.map(i => all.map(j => Number(i === j)));
    for (let sweep = 0; sweep < 30; sweep++)
      for (const p of all)
        for (const q of all.slice(p + 1)) {
          if (a[p][q] === 0) continue;
          const ratio = (a[q][q] - a[p][p]) / (2 * a[p][q]);
          const tan = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.hypot(ratio, 1));
          const cos = 1 / Math.hypot(tan, 1), sin = tan * cos, shift = tan * a[p][q];
          for (const k of all) {
            [vectors[p][k], vectors[q][k]] = [cos * vectors[p][k] - sin * vectors[q][k],
                                              sin * vectors[p][k] + cos * vectors[q][k]];
            if (k === p || k === q) continue;
            const [kp, kq] = [a[k][p], a[k][q]];
            a[k][p] = a[p][k] = cos * kp - sin * kq;
            a[k][q] = a[q][k] = sin * kp + cos * kq;
          }
          a[p][p] -= shift;
          a[q][q] += shift;
          a[p][q] = a[q][p] = 0;
        }
    const order = all.sort((i, j) => a[i][i] - a[j][j]);
    return { values: order.map(i => a[i][i]), vectors: order.map(i => vectors[i]) };
  }

  // The eigenvalues, and by how much the rounding of the Gramian may have moved them.
  function spectrum(matrix) {
    const found = eigen(matrix), trace = sum(matrix.map((row, i) => row[i]));
    return { ...found, noise: 8 * Number.EPSILON * trace + 2 * Math.max(-found.values[0], 0) };
  }

  function normsAndCosines(products) {
    const norms = products.map((row, k) => Math.sqrt(row[k]));
    const cosines = products.map((row, k) => row.map((product, l) =>
      k === l ? Number(norms[k] > 0) : norms[k] * norms[l] > 0 ? product / norms[k] / norms[l] : 0));
    return { norms, cosines };
  }

  // A vector for each gradient, of length 1 (0 for a zero gradient), and the gradients' lengths.
  function points(products) {
    const { norms, cosines } = normsAndCosines(products), { values, vectors, noise } = spectrum(cosines);
    const directions = norms.map((norm, k) =>
      values.map((value, i) => norm > 0 ? Math.sqrt(value + noise) * vectors[i][k] : 0));
    return { directions, norms, noise };
  }

  // The x for which the columns' combination is nearest to the target (modified Gram-Schmidt),
  // and the rest of the target, which it does not reach.
  function leastSquares(columns, target) {
    const q = columns.map(column => [...column]), factors = [], along = [];
    let rest = target;
    q.forEach((column, k) => {
      const size = length(column);
      q[k] = column.map(value => value / size);
      factors[k] = q.map((other, j) => j < k ? 0 : j === k ? size : dot(q[k], other));
      for (let j = k + 1; j < q.length; j++) q[j] = add(q[j], q[k], -factors[k][j]);
      along[k] = dot(q[k], rest);
      rest = add(rest, q[k], -along[k]);
    });
    const x = columns.map(() => 0);
    for (let k = q.length - 1; k >= 0; k--) x[k] = (along[k] - dot(factors[k], x)) / factors[k][k];
    return { x, rest };
  }

  // All choices of at least one of n numbers.
  const subsets = n => [...Array(2 ** n).keys()].slice(1)
    .map(mask => [...Array(n).keys()].filter(k => mask >> k & 1));

  // The same with x >= 0: with few columns, try every set of those that take part.
  function nonNegative(columns, target) {
    let best = { x: columns.map(() => 0), left: length(target) };
    for (const chosen of subsets(columns.length)) {
      const { x, rest } = leastSquares(chosen.map(k => columns[k]), target);
      if (x.every(value => value >= 0) && length(rest) < best.left) {
        const spread = columns.map(() => 0);
        chosen.forEach((k, i) => { spread[k] = x[i]; });
        best = { x: spread, left: length(rest) };
      }
    }
    return best.x;
  }

  // Weights of the shortest convex combination of the columns.
  function minNorm(columns) {
    const lengths = columns.map(length), shortest = Math.min(...lengths);
    if (shortest <= Math.max(...lengths) * 1e-150) {
      const zeros = lengths.map(size => Number(size === shortest));
      return zeros.map(zero => zero / sum(zeros));
    }
    const share = lengths.map(size => shortest / size);
    const rows = columns.map((column, k) => [...column.map(value => value / lengths[k]), share[k]]);
    const weights = nonNegative(rows, [...columns[0].map(() => 0), 1]).map((v, k) => v * share[k]);
    return weights.map(weight => weight / sum(weights));
  }

  // Run a method on the gradients that are not zero; the others get one and the same weight.
  function withoutZeros(products, weightOfZero, method) {
    const found = points(products), here = found.norms.flatMap((norm, k) => norm > 0 ? [k] : []);
    const weights = products.map(() => weightOfZero);
    const [directions, norms] = [found.directions, found.norms].map(all => here.map(k => all[k]));
    if (here.length) method({ directions, norms, noise: found.noise })
      .forEach((weight, i) => { weights[here[i]] = weight; });
    return weights;
  }

  function MGDA(products) {
    const { directions, norms } = points(products);
    return minNorm(directions.map((direction, k) => direction.map(value => value * norms[k])));
  }

  // orders[k]: against which tasks gradient k is cut, one after the other.
  function PCGrad(products, orders = products.map(() => [...products.keys()])) {
    let total = products.map(() => 0);
    orders.forEach((order, task) => {
      const cut = products.map((_, k) => Number(k === task));
      for (const other of order) {
        const product = dot(products[other], cut);
        if (other !== task && product < 0 && products[other][other] > 0)
          cut[other] -= product / products[other][other];
      }
      total = add(total, cut);
    });
    return total;
  }

  function UPGrad(products) {
    const T = products.length;
    return withoutZeros(products, 1 / T, ({ directions, norms }) => {
      const projected = directions.map((own, k) =>
        nonNegative(directions, own.map(value => -value)).map((v, l) => v + Number(k === l)));
      return combine(norms, projected).map((weight, l) => weight / norms[l] / T);
    });
  }

  function CAGrad(products, c = 0.5) {
    const T = products.length;
    return withoutZeros(products, 1 / T, ({ directions, norms, noise }) => {
      const sizes = norms.map(norm => norm / Math.max(...norms));
      const columns = directions.map((direction, k) => direction.map(value => value * sizes[k]));
      const mean = combine(columns.map(() => 1 / T), columns);
      const surely = dot(mean, mean) - 2 * noise * dot(sizes, sizes) / T ** 2;
      const radius = c * Math.sqrt(Math.max(surely, 0));
      if (radius <= 1e-150) return columns.map(() => 1 / T);
      const worst = worstCase(columns, mean, radius);
      const size = length(combine(worst, columns));
      return worst.map(weight => 1 / T + radius / size * weight);
    });
  }

  // The w >= 0 of sum 1 for which (P w) @ mean + radius |P w| is lowest. Which tasks take part is
  // tried; then P w is the shortest vector of their affine hull minus a multiple of the part of the
  // mean that lies along it, and its length is known.
  function worstCase(columns, mean, radius) {
    let best = { value: Infinity };
    for (const [first, ...others] of subsets(columns.length)) {
      const sides = others.map(k => add(columns[k], columns[first], -1));
      const shortest = leastSquares(sides, columns[first]), onMean = leastSquares(sides, mean);
      const along = length(add(mean, onMean.rest, -1));
      if (along >= radius) continue;
      const size = length(shortest.rest) * radius / Math.sqrt(radius ** 2 - along ** 2);
      const weights = columns.map(() => 0);
      others.forEach((k, i) => { weights[k] = -shortest.x[i] - size / radius * onMean.x[i]; });
      weights[first] = 1 - sum(weights);
      const point = combine(weights, columns), value = dot(point, mean) + radius * length(point);
      if (weights.every(weight => weight >= 0) && value < best.value) best = { value, weights };
    }
    return best.weights;
  }

  function IMTLG(products) {
    const { norms, cosines } = normsAndCosines(products), zeros = norms.map(() => 0);
    if (!Math.max(...norms)) return zeros;
    const here = norms.map(norm => Number(norm > 0)), { values, vectors, noise } = spectrum(cosines);
    const kept = vectors.filter((_, i) => values[i] > noise), large = values.filter(v => v > noise);
    const balanced = combine(kept.map((vector, i) => dot(here, vector) / large[i]), kept);
    const shortest = Math.min(...norms.filter(norm => norm > 0));
    const raw = balanced.map((value, k) => norms[k] > 0 ? value * (shortest / norms[k]) : 0);
    const doubt = noise / large[0] * sum(raw.map(Math.abs)), total = sum(raw);
    if (Math.abs(total) <= doubt || Math.max(...balanced.map(Math.abs)) <= noise) return zeros;
    return raw.map(value => value / total);
  }

  function NashMTL(products, maxNorm = 1) {
    return withoutZeros(products, 0, ({ directions, norms, noise }) => {
      const beta = bargain(directions, noise), size = length(combine(beta, directions));
      return beta.map((value, k) => (size > maxNorm ? maxNorm / size : 1) * value / norms[k]);
    });
  }

  // The b > 0 with b * (P.T P b) = 1 by Newton's method, or 0 where there is no bargain.
  function bargain(directions, noise) {
    const shortest = minNorm(directions), size = length(combine(shortest, directions));
    const T = shortest.length, none = shortest.map(() => 0), cosines = gramian(directions);
    if (size ** 2 <= noise * (Math.max(...shortest) + 1 / T)) return none;
    let beta = shortest.map(weight => Math.max(1, weight * Math.sqrt(T) / size));
    for (let number = 0; number < 500; number++) {
      const point = combine(beta, directions);
      const gradient = directions.map((direction, k) => dot(direction, point) - 1 / beta[k]);
      const matrix = cosines.map((row, k) => row.map((v, l) => v + (k === l ? beta[k] ** -2 : 0)));
      const step = leastSquares(matrix, gradient).x;
      const decrement = Math.sqrt(Math.max(dot(gradient, step), 0));
      beta = add(beta, step, decrement < 0.25 ? -1 : -1 / (1 + decrement));
      if (decrement < 1e-5) return noise * Math.max(...beta) ** 2 <= 0.5 ? beta : none;
    }
    throw new Error("Nash-MTL: Newton's method did not converge in 500 steps");
  }

  function AlignedMTL(products) {
    const T = products.length, { values, vectors, noise } = spectrum(products);
    const kept = vectors.filter((_, i) => values[i] > noise), large = values.filter(v => v > noise);
    if (!kept.length) return products.map(() => 1 / T);
    return combine(kept.map((v, i) => Math.sqrt(large[0] / large[i]) * sum(v) / T), kept);
  }

  // The directions, in degrees, of the steps that hurt no task in the plane: [from, to], where
  // from > to if there are none, and null if every gradient is zero.
  function cone(rows) {
    const angles = rows.filter(row => length(row) > 0).map(([x, y]) => Math.atan2(y, x) * 180 / Math.PI);
    if (!angles.length) return null;
    const turns = angles.map(angle => (angle - angles[0] + 540) % 360 - 180);
    return [angles[0] + Math.max(...turns) - 90, angles[0] + Math.min(...turns) + 90];
  }

  const methods = { sum: products => products.map(() => 1), MGDA, PCGrad, UPGrad, CAGrad,
                    "IMTL-G": IMTLG, "Nash-MTL": NashMTL, "Aligned-MTL": AlignedMTL };
  return { methods, gramian, combine, length, dot, cone };
})();

if (typeof module !== "undefined") module.exports = gradients;
