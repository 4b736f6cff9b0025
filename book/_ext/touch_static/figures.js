// Figures that a reader can move. The page holds each as it is at first, drawn by touch.py; here it
// is drawn anew, in the same way, when something moves. Nothing moves by itself.
"use strict";

(() => {
  const number = value => {
    const text = Math.abs(value) < 1000 ? value.toFixed(2) : value.toExponential(1);
    return Number(text) === 0 ? "0.00" : text.replaceAll("-", "−");
  };
  const set = (element, attributes) =>
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  const pixels = value => value.toFixed(1);

  // Words follow when the reader pauses, so that a screen reader is not flooded.
  function speaker(element) {
    let waiting;
    return text => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { element.textContent = text; }, 250);
    };
  }

  // -------------------------------------------------------------------------- gradients

  const UNIT = 40, WIDTH = 400, HEIGHT = 316, X0 = 200, Y0 = 220, TINY = 1e-6;
  const THREE = "In a plane three gradients are always dependent; in a network they hardly ever are.";

  // The weights and the step of a method, and the cosine of each gradient with it (if there is one).
  function read(rows, name) {
    const weights = gradients.methods[name](gradients.gramian(rows));
    const step = gradients.combine(weights, rows), size = gradients.length(step);
    if (size <= TINY * Math.max(...rows.map(gradients.length))) return { weights, step };
    const gains = rows.map(row => gradients.dot(row, step) / gradients.length(row) / size);
    return { weights, step, gains, harmed: gains.flatMap((gain, k) => gain < -TINY ? [k + 1] : []) };
  }

  // Where the arrows of the methods end, and where their names stand.
  function place(rows, names, alike) {
    const ends = {}, labels = [];
    for (const name of names) {
      const { step: [x, y], gains, harmed } = read(rows, name), size = Math.hypot(x, y);
      if (!gains) continue;
      const scale = alike ? 3.2 / size : 1;
      const end = [X0 + UNIT * scale * x, Y0 - UNIT * scale * y];
      ends[name] = { end, harms: harmed.length > 0 };
      const same = labels.find(label => Math.hypot(label.end[0] - end[0], label.end[1] - end[1]) < 5);
      if (same) {
        const commas = same.text.split(",").length - 1; // the table has all names
        if (commas < 3) same.text += `, ${commas === 2 ? "…" : name}`;
        continue;
      }
      const anchor = x > 0.3 * size ? "start" : x < -0.3 * size ? "end" : "middle";
      labels.push({ name, text: name, end, anchor, x: end[0] + 9 * x / size, y: end[1] - 12 * y / size + 4 });
    }
    spread(labels);
    for (const label of labels) ends[label.name].label = label;
    return ends;
  }

  // Keep names in the picture, and move them away from the horizontal axis until none lies on another.
  function spread(labels) {
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
    labels.sort((a, b) => Math.abs(a.y - Y0) - Math.abs(b.y - Y0)).forEach((label, i) => {
      const width = 8 * label.text.length, before = { start: 0, middle: width / 2, end: width }[label.anchor];
      label.x = clamp(label.x, before + 4, WIDTH - 4 - width + before);
      label.from = label.x - before;
      label.to = label.from + width;
      for (const other of labels.slice(0, i))
        if (label.from < other.to && other.from < label.to && Math.abs(other.y - label.y) < 15)
          label.y = other.y + (label.y > Y0 ? 16 : -16);
      label.y = clamp(label.y, 14, HEIGHT - 6);
    });
  }

  function sector(rows) {
    const [from, to] = gradients.cone(rows) ?? [0, 0];
    if (from >= to) return "";
    const corners = [...Array(9).keys()].map(i => (from + (to - from) * i / 8) * Math.PI / 180)
      .map(angle => `${pixels(X0 + 600 * Math.cos(angle))} ${pixels(Y0 - 600 * Math.sin(angle))}`);
    return `M${X0} ${Y0}L${corners.join("L")}Z`;
  }

  function inWords(rows, names) {
    const said = rows.map((row, k) => `Gradient ${k + 1} has length ${number(gradients.length(row))}.`);
    const pairs = rows.flatMap((a, k) => rows.flatMap((b, m) =>
      k < m && gradients.dot(a, b) < -1e-9 ? [`${k + 1} and ${m + 1}`] : []));
    said.push(pairs.length ? `In conflict: ${pairs.join(", ")}.` : "No conflict.");
    const found = names.map(name => ({ name, ...read(rows, name) }));
    const harm = found.filter(({ harmed }) => harmed?.length)
      .map(({ name, harmed }) => `${name} (task ${harmed.join(" and ")})`);
    said.push(harm.length ? `Harmful: ${harm.join(", ")}.` : "No step harms a task.");
    const none = found.filter(({ gains }) => !gains).map(({ name }) => name);
    if (none.length) said.push(`No step: ${none.join(", ")}.`);
    if (rows.length > 2 && names.includes("PCGrad")) said.push("PCGrad cuts in the order 1, 2, 3.");
    if (rows.length > 2) said.push(THREE);
    return said.join(" ");
  }

  function gradientFigure(figure) {
    const { settings, start } = JSON.parse(figure.dataset.touch);
    const svg = figure.querySelector("svg"), tips = [...svg.querySelectorAll(".tip")];
    const knobs = tips.map(tip => tip.querySelector("g")), lines = [...figure.querySelectorAll("tbody tr")];
    const names = lines.map(line => line.dataset.method);
    const choice = figure.querySelector("select"), third = figure.querySelector("button");
    const alike = figure.querySelector(".touch-controls input");
    const say = speaker(figure.querySelector(".touch-words"));
    let rows = settings[start];

    function draw() {
      const shown = names.filter((_, i) => lines[i].querySelector("input").checked);
      const ends = place(rows, shown, alike.checked);
      svg.querySelector(".cone").setAttribute("d", sector(rows));
      for (const name of names) {
        const arrow = svg.querySelector(`[data-method="${name}"]`), drawn = ends[name];
        arrow.toggleAttribute("hidden", !drawn);
        arrow.classList.toggle("harm", Boolean(drawn?.harms));
        if (!drawn) continue;
        set(arrow.firstChild, { x2: pixels(drawn.end[0]), y2: pixels(drawn.end[1]) });
        arrow.lastChild.textContent = drawn.label?.text ?? "";
        if (!drawn.label) continue;
        const { x, y, anchor } = drawn.label;
        set(arrow.lastChild, { x: pixels(x), y: pixels(y), "text-anchor": anchor });
      }
      for (const element of figure.querySelectorAll("[data-task]"))
        element.toggleAttribute("hidden", element.dataset.task > rows.length);
      rows.forEach(([x, y], k) => {
        const end = [pixels(X0 + UNIT * x), pixels(Y0 - UNIT * y)];
        set(tips[k].firstChild, { x2: end[0], y2: end[1] });
        const angle = Math.round(Math.atan2(y, x) * 180 / Math.PI);
        set(knobs[k], { transform: `translate(${end.join(" ")})`, "aria-valuenow": angle,
                        "aria-valuetext": `${number(x)} across, ${number(y)} up` });
      });
      lines.forEach((line, i) => {
        const { weights, gains } = read(rows, names[i]), cells = [...line.querySelectorAll("td")];
        [weights, gains].forEach((values, part) => cells.slice(3 * part, 3 * part + 3).forEach((cell, k) => {
          const known = values && k < rows.length && !Number.isNaN(values[k]);
          cell.textContent = known ? number(values[k]) : "–";
          cell.classList.toggle("harm", Boolean(part && known && values[k] < -TINY));
        }));
      });
      third.textContent = rows.length < 3 ? "Add a third gradient" : "Remove the third";
      say(inWords(rows, names));
    }

    // Tips stay in the picture, on tenths, so that equal and opposite gradients can be met exactly.
    function move(k, x, y) {
      const inside = (value, low, high) => Math.round(10 * Math.min(Math.max(value, low), high)) / 10;
      rows = rows.map((row, i) => i === k ? [inside(x, -4.6, 4.6), inside(y, -2, 5.2)] : row);
      draw();
    }
    function under(event) {
      const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return [(x - X0) / UNIT, (Y0 - y) / UNIT];
    }
    knobs.forEach((knob, k) => {
      set(knob, { role: "slider", tabindex: 0, "aria-label": `tip of gradient ${k + 1}`,
                  "aria-valuemin": -180, "aria-valuemax": 180, "aria-valuenow": 0 });
      knob.addEventListener("pointerdown", event => {
        event.preventDefault();
        knob.focus({ preventScroll: true });
        knob.setPointerCapture(event.pointerId);
      });
      knob.addEventListener("pointermove", event => {
        if (knob.hasPointerCapture(event.pointerId)) move(k, ...under(event));
      });
      knob.addEventListener("keydown", event => {
        const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key] ?? [];
        if (x === undefined) return;
        event.preventDefault();
        const size = event.shiftKey ? 0.5 : 0.1;
        move(k, rows[k][0] + size * x, rows[k][1] + size * y);
      });
    });
    svg.addEventListener("click", event => { // instead of dragging: the nearest tip comes
      if (event.target.closest(".tip")) return;
      const [x, y] = under(event), far = rows.map(row => Math.hypot(row[0] - x, row[1] - y));
      move(far.indexOf(Math.min(...far)), x, y);
    });
    choice.addEventListener("change", () => { rows = settings[choice.value]; draw(); });
    third.addEventListener("click", () => {
      rows = rows.length < 3 ? [...rows, [1, 2]] : rows.slice(0, 2);
      draw();
    });
    alike.addEventListener("change", draw);
    for (const line of lines) {
      const box = line.querySelector("input");
      box.hidden = false;
      box.addEventListener("change", draw);
    }
    svg.setAttribute("role", "group"); // an image has no parts to focus
    draw();
  }

  // -------------------------------------------------------------------------- weights

  const SIZE = 300, EDGE = 40, TOP = 1.15;
  const PLACES = {
    parcels: { range: [0, 120], ticks: [0, 50, 100], axis: "angle of the trunk", unit: "°", digits: 1 },
    "Fonseca and Fleming": { range: [-1.6, 1.6], ticks: [-1, 0, 1], axis: "place on the segment, τ", unit: "", digits: 3 },
  };
  const across = (value, low, high) => EDGE + (SIZE - EDGE - 10) * (value - low) / (high - low);
  const up = value => SIZE - EDGE - (SIZE - EDGE - 10) * value / TOP;
  const path = points => "M" + points.map(([x, y]) => `${pixels(x)} ${pixels(y)}`).join("L");
  const between = (low, high, count) => [...Array(count).keys()].map(i => low + (high - low) * i / (count - 1));

  function weightFigure(figure) {
    const tasks = JSON.parse(figure.dataset.touch), pairs = { parcels: weightedSum.parcels(tasks),
                                                              "Fonseca and Fleming": weightedSum.pair() };
    const [left, right] = figure.querySelectorAll("svg"), choice = figure.querySelector("select");
    const slider = figure.querySelector("input"), trail = right.querySelector(".trail");
    const say = speaker(figure.querySelector(".touch-words"));
    const plane = ([x, y]) => [across(x, 0, TOP), up(y)];
    const signed = (value, digits, unit) => `${value.toFixed(digits).replace("-", "−")}${unit}`;
    const make = (name, parent, attributes, text = "") => {
      const element = parent.appendChild(document.createElementNS(parent.namespaceURI, name));
      set(element, attributes);
      element.textContent = text;
    };
    const leave = point => make("rect", trail, { x: point[0] - 3, y: point[1] - 3, width: 6, height: 6 });

    function draw() {
      const pair = pairs[choice.value], { range, ticks, axis, unit, digits } = PLACES[choice.value];
      const w = Number(slider.value), total = ([one, two]) => w * one + (1 - w) * two;
      const curve = (name, value) => left.querySelector(name).setAttribute("d",
        path(between(...range, 121).map(place => [across(place, ...range), up(value(pair.losses(place)))])));
      curve(".task-1", losses => losses[0]);
      curve(".task-2", losses => losses[1]);
      curve(".total", total);
      left.querySelector(".across").textContent = axis;
      left.querySelector(".ticks").replaceChildren();
      for (const value of ticks)
        make("text", left.querySelector(".ticks"), { class: "tick", x: pixels(across(value, ...range)), y: SIZE - EDGE + 16 },
             signed(value, 0, unit));
      right.querySelector(".front").setAttribute("d",
        path(between(...pair.ends, 61).map(place => plane(pair.losses(place)))));
      const minima = pair.minima(w), losses = minima.map(pair.losses), value = total(losses[0]);
      right.querySelector(".level").setAttribute("d", path([[0, value / (1 - w)], [value / w, 0]].map(plane)));
      [left, right].forEach(svg => svg.querySelector(".lowest").replaceChildren());
      minima.forEach((place, i) => {
        const points = [[across(place, ...range), up(value)], plane(losses[i])];
        [left, right].forEach((svg, side) => make("circle", svg.querySelector(".lowest"),
          { r: 6, cx: pixels(points[side][0]), cy: pixels(points[side][1]) }));
        leave(points[1]);
      });
      const where = minima.map(place => signed(place, digits, unit)).join(" and ");
      const words = `With w = ${number(w)} the sum is lowest at ${where}. ` + losses.map(([one, two]) =>
        `Loss of task 1: ${number(one)}, of task 2: ${number(two)}.`).join(" Or: ");
      figure.querySelector("output").textContent = number(w);
      slider.setAttribute("aria-valuetext", words);
      say(words);
    }
    slider.addEventListener("input", draw);
    choice.addEventListener("change", () => { trail.replaceChildren(); draw(); });
    figure.querySelector("button").addEventListener("click", () =>
      between(0.01, 0.99, 99).forEach(w => pairs[choice.value].minima(w)
        .forEach(place => leave(plane(pairs[choice.value].losses(place))))));
    draw();
  }

  for (const figure of document.querySelectorAll(".touch")) {
    figure.querySelector(".touch-controls").hidden = false;
    if (figure.matches(".touch-gradients")) gradientFigure(figure); else weightFigure(figure);
  }
})();
