// The lowest points of w L1 + (1 - w) L2 on the two pairs of losses of foundations/objective. Like
// gradients.js: no drawing, and a test compares it with NumPy.
"use strict";

const weightedSum = (() => {
  // The parcels: with its best head, the loss of a trunk at this angle is the label's variance minus
  // what is explained, best * cos(angle - own) ** 2. `tasks` holds these three numbers of each task.
  const parcels = tasks => ({
    ends: [tasks[0].own, tasks[1].own],
    losses: angle => tasks.map(({ variance, best, own }) =>
      variance - best * Math.cos((angle - own) * Math.PI / 180) ** 2),
    minima(w) {
      const parts = [w * tasks[0].best, (1 - w) * tasks[1].best];
      const [x, y] = [Math.cos, Math.sin].map(f =>
        parts[0] * f(tasks[0].own * Math.PI / 90) + parts[1] * f(tasks[1].own * Math.PI / 90));
      return [(Math.atan2(y, x) * 90 / Math.PI + 180) % 180];
    },
  });

  // Fonseca and Fleming's pair along the segment from the minimum of task 2 (place -1) to that of
  // task 1 (place 1). The slope is 0 where psi(place) = log(w / (1 - w)); beyond the middle, where
  // psi rises, that is the minimum on the side of the heavier task.
  const psi = place => Math.log((1 + place) / (1 - place)) - 4 * place;
  const pair = () => ({
    ends: [1, -1],
    losses: place => [1, -1].map(own => 1 - Math.exp(-((place - own) ** 2))),
    minima(w) {
      const level = Math.abs(Math.log(w / (1 - w)));
      let [low, high] = [Math.SQRT1_2, 1];
      for (let halving = 0; halving < 60; halving++) {
        const middle = (low + high) / 2;
        if (psi(middle) < level) low = middle; else high = middle;
      }
      return w > 0.5 ? [low] : w < 0.5 ? [-low] : [-low, low];
    },
  });

  return { parcels, pair };
})();

if (typeof module !== "undefined") module.exports = weightedSum;
