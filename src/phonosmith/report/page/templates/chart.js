// Charts: panels of lines, dots, bars, spans and boxes as SVG, with readout, switches, zoom, keyboard, and files to save.

const SVG = "http://www.w3.org/2000/svg";

const element = (name, attributes = {}, parent = null, text = "") => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  if (text) made.textContent = text;
  parent?.append(made);
  return made;
};

const shape = (name, attributes = {}, parent = null, text = "") => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent?.append(made);
  return made;
};

const save = (name, text, type = "text/plain") => {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
};

const digits = (value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
};

const linearTicks = (low, high, most) => {
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + 1e-9 * step; place += 1) found.push(place * step);
  return found.map((value) => [value, digits(Number(value.toPrecision(12)))]);
};

const logTicks = (low, high, most) => {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of [1, 2, 5]) {
      const value = factor * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(Number(value.toPrecision(3)));
    }
  }
  const powers = found.filter((value) => String(value).replace(/[0.]/g, "").startsWith("1"));
  const thinned = found.filter((_, i) => i % Math.ceil(found.length / Math.max(2, Math.floor(most))) === 0);
  const kept = [found.length <= most ? found : powers, thinned].find((values) => values.length > 1);
  return (kept ?? linearTicks(low, high, most).map((tick) => tick[0])).map((value) => [value, digits(value)]);
};

const quartile = (sorted, share) => {
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
};

class Chart {
  // options: height, keep (panels stay side by side), weights, shareY, describe(series, index), pick(series, index)
  constructor(host, chart, looks, options = {}) {
    Object.assign(this, { host, chart, looks, options });
    this.zoomed = chart.panels.map(() => ({}));
    this.hidden = new Set();
    this.at = null;
    for (const panel of chart.panels) {
      for (const one of panel.series) if (one.shown === false) this.hidden.add(one.name);
    }
    this.legend = element("div", { class: "legend", role: "group", "aria-label": "Curves to show" }, host);
    this.stage = element("div", { class: "stage" }, host);
    this.readout = element("p", { class: "readout", role: "status", "aria-live": "polite" }, host);
    this.tools = element("p", { class: "chart-tools" }, host);
    this.button("Reset zoom", () => this.reset()).hidden = true;
    this.button("Save SVG", () => this.saveSvg());
    this.button("Save data", () => this.saveData());
    this.makeLegend();
    this.width = 0;
    new ResizeObserver(() => {
      const width = this.stage.clientWidth;
      if (width && width !== this.width) requestAnimationFrame(() => this.draw());
    }).observe(this.stage);
    this.draw();
  }

  button(words, act) {
    const made = element("button", { type: "button" }, this.tools, words);
    made.addEventListener("click", act);
    return made;
  }

  names() {
    return [...new Map(this.chart.panels.flatMap((panel) => panel.series).map((one) => [one.name, one])).values()];
  }

  makeLegend() {
    const names = this.names();
    // nothing to tell apart, nothing to switch
    if (this.chart.panels.every((panel) => panel.series.length < 2) && !this.options.legend) return;
    for (const one of names) {
      const button = element("button", { type: "button", "aria-pressed": String(!this.hidden.has(one.name)) }, this.legend);
      const [colour, dashes, marker] = this.looks[one.look] ?? ["grey", "", "o"];
      const icon = shape("svg", { width: 26, height: 12, "aria-hidden": "true", class: `c-${colour}` }, button);
      const kinds = this.chart.panels.flatMap((panel) => panel.series).filter((other) => other.name === one.name).map((other) => other.kind ?? "line");
      if (kinds.includes("line") || kinds.includes("spans")) shape("path", { d: "M0 6H26", class: `line ${one.role ?? ""}`, "stroke-dasharray": dashes }, icon);
      if (kinds.includes("bars") || kinds.includes("boxes") || kinds.includes("map")) shape("rect", { x: 7, y: 1, width: 12, height: 10, class: "bar" }, icon);
      if (kinds.includes("dots") || kinds.includes("spans")) this.mark(icon, 13, 6, marker, one.hollow);
      button.append(` ${one.label ?? one.name}`);
      button.addEventListener("click", () => {
        if (!this.hidden.delete(one.name)) this.hidden.add(one.name);
        button.setAttribute("aria-pressed", String(!this.hidden.has(one.name)));
        this.draw();
      });
    }
  }

  drawn(panel) {
    return panel.series.filter((one) => !this.hidden.has(one.name));
  }

  range(index, which) {
    const panel = this.chart.panels[index];
    const zoomed = this.zoomed[index][which];
    if (zoomed) return zoomed;
    const axis = panel[which];
    if (axis.range) return axis.range;
    let low = Infinity;
    let high = -Infinity;
    const take = (value) => {
      if (value === null || !Number.isFinite(value) || (axis.log && value <= 0)) return;
      if (value < low) low = value;
      if (value > high) high = value;
    };
    const shared = which === "y" && this.options.shareY ? this.chart.panels : [panel];
    for (const one of shared.flatMap((other) => this.drawn(other))) {
      for (const value of one[which]) take(value);
      if (which === "y") {
        (one.low ?? []).forEach(take);
        (one.high ?? []).forEach(take);
        if (one.kind === "bars") take(0);
      }
    }
    for (const [value] of panel[`${which}_guides`] ?? []) take(value);
    if (panel.diagonal && which !== "both") {
      for (const one of this.drawn(panel)) for (const value of one[which === "x" ? "y" : "x"]) take(value);
    }
    if (low > high) return axis.log ? [0.1, 1] : [0, 1];
    if (axis.ticks?.length && panel.series.some((one) => ["bars", "boxes"].includes(one.kind))) return [low - 0.6, high + 0.6];
    if (axis.tight) return [low, high];
    if (axis.log) return [low / 1.25, high * 1.25];
    const margin = 0.05 * (high - low || Math.abs(high) || 1);
    return [low === 0 && which === "y" ? 0 : low - margin, high + margin];
  }

  draw() {
    this.width = this.stage.clientWidth || 640;
    const { panels } = this.chart;
    const stacked = !this.options.keep && this.width < 300 * panels.length;
    const columns = stacked ? Math.max(1, Math.floor(this.width / 300)) : Math.min(panels.length, 4);
    const rows = Math.ceil(panels.length / columns);
    const height = this.options.height?.(this.width) ?? Math.max(230, Math.min(320, this.width / columns / 1.4));
    this.stage.replaceChildren();
    const drawing = shape("svg", {
      viewBox: `0 0 ${this.width} ${height * rows}`, width: this.width, height: height * rows, class: "chart-svg",
      role: "img", "aria-label": `${this.chart.alt} Arrow keys move along the curves.`, tabindex: 0,
    }, this.stage);
    this.drawing = drawing;
    const weights = this.options.weights && !stacked ? this.options.weights : panels.map(() => 1);
    this.frames = [];
    panels.forEach((panel, index) => {
      const row = Math.floor(index / columns);
      const inRow = weights.slice(row * columns, (row + 1) * columns);
      const total = inRow.reduce((a, b) => a + b, 0) + weights[0] * (columns - inRow.length);
      const before = inRow.slice(0, index - row * columns).reduce((a, b) => a + b, 0);
      const left = (before / total) * this.width;
      this.drawPanel(panel, index, left, row * height, (weights[index] / total) * this.width, height);
    });
    this.cursor = shape("g", { class: "cursor" }, drawing);
    this.listen();
    this.tools.firstChild.hidden = !this.zoomed.some((one) => one.x || one.y);
    this.show();
  }

  drawPanel(panel, index, left, top, width, height) {
    const bare = this.options.shareY && index > 0;
    const ticksBelow = panel.x.ticks ?? [];
    const longest = Math.max(0, ...ticksBelow.map((tick) => tick[1].length));
    const turned = longest > 3 && ticksBelow.length * longest * 7 > width - 60;
    const frame = {
      x0: left + (bare ? 10 : 58), x1: left + width - 14, y0: top + 8,
      y1: top + height - (panel.x.label || this.options.shareY ? 40 : 24) - (turned ? 12 + 3.6 * longest : 0),
    };
    frame.xr = this.range(index, "x");
    frame.yr = this.range(index, "y");
    const scaled = (axis, range, a, b) => {
      const [low, high] = axis.log ? range.map(Math.log10) : range;
      return [(value) => a + (((axis.log ? Math.log10(value) : value) - low) / (high - low || 1)) * (b - a),
        (place) => { const value = low + ((place - a) / (b - a)) * (high - low); return axis.log ? 10 ** value : value; }];
    };
    [frame.px, frame.xp] = scaled(panel.x, frame.xr, frame.x0, frame.x1);
    [frame.py, frame.yp] = scaled(panel.y, frame.yr, frame.y1, frame.y0);
    this.frames[index] = frame;
    const root = shape("g", { class: "panel" }, this.drawing);
    const name = `clip-${Chart.count += 1}`;
    const clip = shape("clipPath", { id: name }, root);
    shape("rect", { x: frame.x0, y: frame.y0, width: Math.max(frame.x1 - frame.x0, 1), height: Math.max(frame.y1 - frame.y0, 1) }, clip);
    const inside = shape("g", { "clip-path": `url(#${name})` }, root);
    const ticks = (axis, range, space) => (axis.ticks?.length ? axis.ticks.filter((tick) => tick[0] >= range[0] - 1e-9 && tick[0] <= range[1] + 1e-9)
      : axis.log ? logTicks(...range, space) : linearTicks(...range, space));
    let last = -Infinity;
    for (const [value, words] of ticks(panel.x, frame.xr, Math.max(2, (frame.x1 - frame.x0) / 70))) {
      const x = frame.px(value);
      shape("path", { d: `M${x.toFixed(1)} ${frame.y0}V${frame.y1}`, class: "grid" }, root);
      if (turned) {
        shape("text", { transform: `translate(${x.toFixed(1)} ${frame.y1 + 12}) rotate(-35)`, class: "tick end" }, root, words);
      } else if (x - last > 5 + 3.4 * words.length && x + 3.4 * words.length < left + width) {
        shape("text", { x: x.toFixed(1), y: frame.y1 + 15, class: "tick middle" }, root, words);
        last = x + 3.4 * words.length;
      }
    }
    for (const [value, words] of ticks(panel.y, frame.yr, Math.max(2, (frame.y1 - frame.y0) / 38))) {
      const y = frame.py(value);
      shape("path", { d: `M${frame.x0} ${y.toFixed(1)}H${frame.x1}`, class: "grid" }, root);
      if (!bare) shape("text", { x: frame.x0 - 6, y: (y + 4).toFixed(1), class: "tick end" }, root, words);
    }
    shape("path", { d: `M${frame.x0} ${frame.y0}V${frame.y1}H${frame.x1}`, class: "axis" }, root);
    shape("text", { x: (frame.x0 + frame.x1) / 2, y: top + height - 6, class: "label middle" }, root, panel.x.label);
    if (!bare) shape("text", { transform: `translate(${left + 13} ${(frame.y0 + frame.y1) / 2}) rotate(-90)`, class: "label middle" }, root, panel.y.label);
    if (panel.diagonal) {
      const low = Math.max(frame.xr[0], frame.yr[0]);
      const high = Math.min(frame.xr[1], frame.yr[1]);
      shape("path", { d: `M${frame.px(low)} ${frame.py(low)}L${frame.px(high)} ${frame.py(high)}`, class: "guide" }, inside);
    }
    for (const [value, words] of panel.y_guides ?? []) {
      const y = frame.py(value);
      shape("path", { d: `M${frame.x0} ${y}H${frame.x1}`, class: `guide ${words ? "limit" : ""}` }, inside);
      if (words) shape("text", { x: frame.x1 - 4, y: y - 4, class: "tick end" }, inside, words);
    }
    const shown = this.drawn(panel);
    this.written = [];
    const beside = [...new Set(shown.filter((one) => one.kind === "bars").map((one) => one.name))];
    for (const one of shown) this.drawSeries(one, frame, inside, beside);
  }

  mark(parent, x, y, marker, hollow, size = 4) {
    const at = `translate(${x.toFixed(1)} ${y.toFixed(1)})`;
    const paths = { s: "M-3.6-3.6H3.6V3.6H-3.6Z", "^": "M0-4.6L4.3 3.4H-4.3Z", v: "M0 4.6L4.3-3.4H-4.3Z", D: "M0-5L5 0L0 5L-5 0Z", "<": "M-4.6 0L3.4 4.3V-4.3Z", ">": "M4.6 0L-3.4 4.3V-4.3Z" };
    if (paths[marker]) shape("path", { d: paths[marker], transform: `${at} scale(${size / 4})`, class: hollow ? "dot hollow" : "dot" }, parent);
    else shape("circle", { r: size, transform: at, class: hollow ? "dot hollow" : "dot" }, parent);
  }

  drawSeries(one, frame, inside, beside) {
    const [colour, dashes, marker] = this.looks[one.look] ?? ["grey", "", "o"];
    const group = shape("g", { class: `series c-${colour} ${one.role ?? ""}` }, inside);
    const kind = one.kind ?? "line";
    const known = (i) => one.x[i] !== null && one.y[i] !== null && Number.isFinite(one.x[i]) && Number.isFinite(one.y[i]);
    if (kind === "line" || kind === "spans") {
      const parts = [];
      let pen = "M";
      for (let i = 0; i < one.x.length; i += 1) {
        if (!known(i)) { pen = "M"; continue; }
        parts.push(pen, frame.px(one.x[i]).toFixed(1), " ", frame.py(one.y[i]).toFixed(1));
        pen = "L";
      }
      shape("path", { d: parts.join(""), class: "line", "stroke-dasharray": dashes }, group);
    }
    if (kind === "boxes") { this.drawBoxes(one, frame, group); return; }
    if (kind === "map") { this.drawMap(one, frame, group); return; }
    if (one.small) {
      const specks = one.x.map((_, i) => (known(i) ? `M${frame.px(one.x[i]).toFixed(1)} ${frame.py(one.y[i]).toFixed(1)}h0` : ""));
      shape("path", { d: specks.join(""), class: "specks" }, group);
      return;
    }
    const place = beside.indexOf(one.name);
    const width = Math.min(40, (0.8 / Math.max(beside.length, 1)) * (frame.px(1) - frame.px(0)));
    for (let i = 0; i < one.x.length && kind !== "line"; i += 1) {
      if (!known(i)) continue;
      const x = frame.px(one.x[i]);
      const y = frame.py(one.y[i]);
      if (kind === "bars") {
        const zero = frame.py(Math.max(0, frame.yr[0]));
        shape("rect", { x: (x + (place - beside.length / 2) * width + 0.5).toFixed(1), y: Math.min(y, zero).toFixed(1), width: Math.max(width - 1, 1).toFixed(1), height: Math.abs(zero - y).toFixed(1), class: "bar" }, group);
      } else {
        if (kind === "spans" && one.low?.[i] != null) shape("path", { d: `M${x} ${frame.py(one.low[i])}V${frame.py(one.high[i])}`, class: "line" }, group);
        this.mark(group, x, y, marker, one.hollow);
        if (one.names?.[i]) this.write(group, x, y, one.names[i], frame);
      }
    }
  }

  // a name beside a point, where no other stands already
  write(parent, x, y, words, frame) {
    const width = 6.2 * words.length;
    const left = x + 8 + width > frame.x1 ? x - 8 - width : x + 8;
    const top = Math.max(y - 7, frame.y0 + 11);
    if (this.written.some(([a, b, wide]) => Math.abs(b - top) < 13 && left < a + wide && a < left + width)) return;
    this.written.push([left, top, width]);
    shape("text", { x: left.toFixed(1), y: top.toFixed(1), class: "tick" }, parent, words);
  }

  // cells around points: the deeper below zero the stronger one colour, the higher above the stronger another
  drawMap(one, frame, group) {
    const spacing = (values) => {
      const places = [...new Set(values)].sort((a, b) => a - b);
      return places.length > 1 ? places[1] - places[0] : 1;
    };
    const [wide, high] = [spacing(one.x), spacing(one.y)];
    const lowest = Math.min(...one.values.filter((value) => value !== null));
    // walls rise far above wells: colours end as high as the wells are deep
    const scale = lowest < 0 ? -lowest : Math.max(...one.values.filter((value) => value !== null)) || 1;
    one.x.forEach((x, i) => {
      const value = one.values[i];
      if (value === null) return;
      const [a, b, c, d] = [frame.px(x - wide / 2), frame.px(x + wide / 2), frame.py(one.y[i] + high / 2), frame.py(one.y[i] - high / 2)];
      shape("rect", {
        x: a.toFixed(1), y: c.toFixed(1), width: (b - a + 0.3).toFixed(1), height: (d - c + 0.3).toFixed(1),
        class: `cell ${value < 0 ? "c-blue" : "c-vermillion"}`, "fill-opacity": Math.min(1, Math.abs(value) / scale).toFixed(2),
      }, group);
    });
  }

  drawBoxes(one, frame, group) {
    const values = one.y.filter((value) => value !== null).sort((a, b) => a - b);
    if (!values.length) return;
    const x = frame.px(one.x[0]);
    const half = Math.min(16, 0.3 * (frame.px(1) - frame.px(0)));
    if (values.length > 3) {
      const [low, middle, high] = [0.25, 0.5, 0.75].map((share) => quartile(values, share));
      const within = values.filter((value) => value >= low - 1.5 * (high - low) && value <= high + 1.5 * (high - low));
      shape("rect", { x: x - half, y: frame.py(high), width: 2 * half, height: Math.max(frame.py(low) - frame.py(high), 1), class: "box" }, group);
      shape("path", { d: `M${x - half} ${frame.py(middle)}H${x + half}M${x} ${frame.py(low)}V${frame.py(within[0])}M${x} ${frame.py(high)}V${frame.py(within[within.length - 1])}`, class: "line" }, group);
    }
    // a few values are shown as they are: quartiles of three say nothing; of very many only what lies outside
    const [q1, q3] = [quartile(values, 0.25), quartile(values, 0.75)];
    const drawn = values.length > 200 ? values.filter((value) => value < q1 - 1.5 * (q3 - q1) || value > q3 + 1.5 * (q3 - q1)) : values;
    drawn.forEach((value, i) => shape("circle", { cx: x + (((i * 7) % 5) - 2) * half * 0.2, cy: frame.py(value), r: values.length > 3 ? 1.6 : 3.5, class: "dot" }, group));
  }

  nearest(clientX, clientY, reach = 45) {
    const box = this.drawing.getBoundingClientRect();
    const [x, y] = [clientX - box.left, clientY - box.top];
    let best = null;
    this.frames.forEach((frame, index) => {
      if (x < frame.x0 - 6 || x > frame.x1 + 6 || y < frame.y0 - 6 || y > frame.y1 + 6) return;
      for (const one of this.drawn(this.chart.panels[index])) {
        for (let i = 0; i < one.x.length; i += 1) {
          if (one.x[i] === null || one.y[i] === null) continue;
          const dx = frame.px(one.x[i]) - x;
          if (Math.abs(dx) > reach) continue;
          const dy = frame.py(one.y[i]) - y;
          const distance = dx * dx + dy * dy;
          if (distance < reach * reach && (!best || distance < best.distance)) best = { panel: index, one, i, distance };
        }
      }
    });
    return best;
  }

  show() {
    this.cursor.replaceChildren();
    const found = this.at;
    this.readout.textContent = found ? this.words(found) : this.options.hint ?? "";
    if (!found || this.hidden.has(found.one.name)) return;
    const frame = this.frames[found.panel];
    const [x, y] = [frame.px(found.one.x[found.i]), frame.py(found.one.y[found.i])];
    this.frames.forEach((other, index) => {
      const linked = this.options.shareY || index === found.panel;
      if (linked) shape("path", { d: `M${other.x0} ${y.toFixed(1)}H${other.x1}`, class: "cross" }, this.cursor);
    });
    shape("path", { d: `M${x.toFixed(1)} ${frame.y0}V${frame.y1}`, class: "cross" }, this.cursor);
    const [colour] = this.looks[found.one.look] ?? ["grey"];
    shape("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 5, class: `ring c-${colour}` }, this.cursor);
  }

  words({ panel, one, i }) {
    const own = this.options.describe?.(one, i, panel);
    if (own) return own;
    const axes = this.chart.panels[panel];
    if (one.labels?.[i]) return `${one.label ?? one.name}: ${one.labels[i]}`;
    const named = axes.x.ticks?.find((tick) => tick[0] === one.x[i])?.[1];
    return `${one.label ?? one.name}: ${axes.y.label} ${digits(one.y[i])} at ${named ?? `${axes.x.label} ${digits(one.x[i])}`}`;
  }

  listen() {
    const { drawing } = this;
    let start = null;
    let box = null;
    const inPanel = (event) => {
      const area = drawing.getBoundingClientRect();
      const [x, y] = [event.clientX - area.left, event.clientY - area.top];
      const index = this.frames.findIndex((frame) => x >= frame.x0 && x <= frame.x1 && y >= frame.y0 && y <= frame.y1);
      return { x, y, index };
    };
    drawing.addEventListener("pointermove", (event) => {
      if (start && event.pointerType === "mouse") {
        const { x, y } = inPanel(event);
        if (!box && Math.hypot(x - start.x, y - start.y) < 6) return;
        box ??= shape("rect", { class: "zoom-box" }, drawing);
        const frame = this.frames[start.index];
        const ends = [Math.max(frame.x0, Math.min(x, start.x)), Math.min(frame.x1, Math.max(x, start.x)), Math.max(frame.y0, Math.min(y, start.y)), Math.min(frame.y1, Math.max(y, start.y))];
        start.ends = ends;
        for (const [key, value] of Object.entries({ x: ends[0], y: ends[2], width: Math.max(ends[1] - ends[0], 0), height: Math.max(ends[3] - ends[2], 0) })) box.setAttribute(key, value);
        return;
      }
      this.at = this.nearest(event.clientX, event.clientY);
      this.show();
    });
    drawing.addEventListener("pointerdown", (event) => {
      const place = inPanel(event);
      if (event.button === 0 && place.index >= 0) start = place;
    });
    const finish = (event) => {
      if (box && start?.ends) {
        const [a, b, c, d] = start.ends;
        const frame = this.frames[start.index];
        if (b - a > 8 || d - c > 8) this.zoom(start.index, b - a > 8 ? [frame.xp(a), frame.xp(b)] : null, d - c > 8 ? [frame.yp(d), frame.yp(c)] : null);
      } else if (start && event.type === "pointerup") {
        this.at = this.nearest(event.clientX, event.clientY);
        this.show();
        this.choose();
      }
      start = null;
      box?.remove();
      box = null;
    };
    drawing.addEventListener("pointerup", finish);
    drawing.addEventListener("pointercancel", finish);
    drawing.addEventListener("pointerleave", (event) => { if (box || start) finish(event); });
    drawing.addEventListener("dblclick", () => this.reset());
    drawing.addEventListener("keydown", (event) => this.key(event));
  }

  choose() {
    if (!this.at) return;
    const { one, i } = this.at;
    if (one.links?.[i]) window.location.href = one.links[i];
    this.options.pick?.(one, i, this.at.panel);
  }

  key(event) {
    const panel = this.at?.panel ?? 0;
    const shown = this.drawn(this.chart.panels[panel]);
    if (!shown.length) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const turn = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (step || turn) {
      if (!this.at) this.at = { panel, one: shown[0], i: shown[0].y.findIndex((value) => value !== null) };
      else if (step) {
        let i = this.at.i + step;
        while (i >= 0 && i < this.at.one.x.length && this.at.one.y[i] === null) i += step;
        if (i >= 0 && i < this.at.one.x.length) this.at = { ...this.at, i };
      } else this.at = this.options.turn?.(this.at, turn) ?? this.otherSeries(shown, turn);
      this.show();
    } else if (event.key === "Enter" || event.key === " ") this.choose();
    else if (event.key === "+" || event.key === "-") {
      const frame = this.frames[panel];
      const [x, y] = this.at ? [frame.px(this.at.one.x[this.at.i]), frame.py(this.at.one.y[this.at.i])] : [(frame.x0 + frame.x1) / 2, (frame.y0 + frame.y1) / 2];
      const factor = event.key === "+" ? 0.6 : 1 / 0.6;
      this.zoom(panel, [frame.xp(x + factor * (frame.x0 - x)), frame.xp(x + factor * (frame.x1 - x))], [frame.yp(y + factor * (frame.y1 - y)), frame.yp(y + factor * (frame.y0 - y))]);
    } else if (event.key === "Escape" || event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }

  otherSeries(shown, turn) {
    const one = shown[(shown.indexOf(this.at.one) + turn + shown.length) % shown.length];
    return { ...this.at, one, i: Math.min(this.at.i, one.x.length - 1) };
  }

  zoom(index, x, y) {
    if (x) this.zoomed[index].x = x;
    if (y) (this.options.shareY ? this.zoomed : [this.zoomed[index]]).forEach((one) => { one.y = y; });
    this.redraw();
  }

  reset() {
    this.zoomed = this.chart.panels.map(() => ({}));
    this.redraw();
  }

  redraw() {
    const focused = document.activeElement === this.drawing;
    this.draw();
    if (focused) this.drawing.focus({ preventScroll: true });
  }

  saveSvg() {
    const copy = this.drawing.cloneNode(true);
    const originals = [this.drawing, ...this.drawing.querySelectorAll("*")];
    [copy, ...copy.querySelectorAll("*")].forEach((one, index) => {
      const style = getComputedStyle(originals[index]);
      for (const name of ["fill", "stroke", "stroke-width", "opacity", "fill-opacity", "font-size", "font-family", "text-anchor"]) one.setAttribute(name, style.getPropertyValue(name));
    });
    copy.setAttribute("xmlns", SVG);
    save(`${this.chart.key}.svg`, new XMLSerializer().serializeToString(copy), "image/svg+xml");
  }

  saveData() {
    const rows = [["panel", "curve", "x", "y", "what"]];
    for (const panel of this.chart.panels) {
      for (const one of panel.series) {
        for (let i = 0; i < one.x.length; i += 1) {
          if (one.y[i] !== null && one.x[i] !== null) rows.push([`${panel.y.label} against ${panel.x.label}`, one.name, one.x[i], one.y[i], one.labels?.[i] ?? this.options.describe?.(one, i) ?? ""]);
        }
      }
    }
    const quoted = (value) => (typeof value === "number" ? String(value) : `"${String(value).replaceAll('"', '""')}"`);
    save(`${this.chart.key}.csv`, rows.map((row) => row.map(quoted).join(",")).join("\n"), "text/csv");
  }
}
Chart.count = 0;
