// The crystal on a canvas: turned by dragging or arrow keys, modes as moving atoms and arrows, saved for other viewers.

const multiply = (a, b) => a.map((row) => b[0].map((_, j) => row.reduce((sum, value, k) => sum + value * b[k][j], 0)));
const place = (vector, rows) => [0, 1, 2].map((axis) => vector.reduce((sum, value, k) => sum + value * rows[k][axis], 0));
const norm = (vector) => Math.hypot(...vector);
const MOST_SHOWN = 260;

// how often a cell is repeated along each axis so that a wave closes in itself; null where more than ten cells would be needed
const closing = (q) => {
  const repeats = q.map((value) => [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].find((n) => Math.abs(n * value - Math.round(n * value)) < 2e-3) ?? null);
  return repeats.includes(null) ? null : repeats;
};

class Viewer {
  constructor(host, crystal, cell, name) {
    Object.assign(this, { host, crystal, cell, name, mode: null, phase: 0.15, amplitude: 0.35, arrows: true, playing: false });
    this.title = element("p", { class: "viewer-title", role: "status" }, host);
    this.canvas = element("canvas", { tabindex: 0, role: "img", "aria-label": "Ball drawing of the crystal. Arrow keys turn it." }, host);
    this.key = element("p", { class: "legend elements" }, host);
    this.tools = element("p", { class: "chart-tools" }, host);
    const button = (words, act) => {
      const made = element("button", { type: "button", hidden: true }, this.tools, words);
      made.addEventListener("click", act);
      return made;
    };
    this.play = button("Pause", () => this.setPlaying(!this.playing));
    this.pointing = button("Hide arrows", () => {
      this.arrows = !this.arrows;
      this.pointing.textContent = this.arrows ? "Hide arrows" : "Show arrows";
      this.draw();
    });
    const label = element("label", { hidden: true }, this.tools, "Amplitude ");
    this.slider = element("input", { type: "range", min: 5, max: 100, value: 35 }, label);
    this.slider.addEventListener("input", () => { this.amplitude = Number(this.slider.value) / 100; this.draw(); });
    this.files = [label, button("Save XYZ", () => this.saveXyz()), button("Save for v_sim", () => this.saveAscii()), button("Save for phonon website", () => this.saveWebsite()), button("Back to the crystal", () => this.showCrystal())];
    this.others = element("p", { class: "chart-tools" }, host);
    const [a, b] = [-1.25, 0.5];
    this.turned = multiply([[Math.cos(b), 0, Math.sin(b)], [0, 1, 0], [-Math.sin(b), 0, Math.cos(b)]], [[1, 0, 0], [0, Math.cos(a), -Math.sin(a)], [0, Math.sin(a), Math.cos(a)]]);
    this.listen();
    this.showCrystal();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  listen() {
    let from = null;
    this.canvas.addEventListener("pointerdown", (event) => { from = event; this.canvas.setPointerCapture(event.pointerId); });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      this.turn((event.clientX - from.clientX) / 120, (event.clientY - from.clientY) / 120);
      from = event;
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => { from = null; });
    this.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[event.key];
      if (!step) return;
      this.turn(...step);
      event.preventDefault();
    });
  }

  turn(a, b) {
    const [ca, sa, cb, sb] = [Math.cos(a), Math.sin(a), Math.cos(b), Math.sin(b)];
    this.turned = multiply(multiply([[1, 0, 0], [0, cb, -sb], [0, sb, cb]], [[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]]), this.turned);
    if (!this.playing) this.draw();
  }

  showCrystal() {
    this.setPlaying(false);
    this.mode = null;
    this.others.replaceChildren();
    this.title.textContent = this.crystal ? "Conventional cell" : "Primitive cell";
    this.build(this.crystal ?? this.cell, [1, 1, 1], true);
    this.revealTools(false);
    this.draw();
  }

  showMode(mode) {
    this.mode = mode;
    this.cell = mode.cell;
    this.others.replaceChildren();
    for (const other of mode.others) element("button", { type: "button" }, this.others, other.words).addEventListener("click", other.show);
    const atoms = this.cell.symbols.length;
    let repeats = (closing(mode.q) ?? [3, 3, 3]).map((n) => Math.min(n, 6));
    // at least two cells each way, so that neighbours are seen, and not more atoms than can be told apart
    repeats = repeats.map((n) => (n === 1 && atoms < 20 ? 2 : n));
    while (repeats.reduce((a, b) => a * b, atoms) > MOST_SHOWN && Math.max(...repeats) > 1) repeats[repeats.indexOf(Math.max(...repeats))] -= 1;
    this.title.textContent = mode.words;
    this.build(this.cell, repeats, false);
    this.revealTools(true);
    this.setPlaying(!window.matchMedia("(prefers-reduced-motion: reduce)").matches);
    this.draw();
  }

  revealTools(shown) {
    for (const one of [this.play, this.pointing, ...this.files]) one.hidden = !shown;
  }

  setPlaying(playing) {
    this.playing = playing;
    this.play.textContent = playing ? "Pause" : "Play";
    if (playing) requestAnimationFrame((time) => this.tick(time, time));
  }

  tick(time, before) {
    if (!this.playing) return;
    this.phase = (this.phase + (time - before) / 1400) % 1;
    if (this.canvas.offsetParent) this.draw();
    requestAnimationFrame((next) => this.tick(next, time));
  }

  // displacement of an atom of the cell, r in fractions of the cell: Re[u exp(2πi (q·r − phase))], Å
  moved(atom, r, phase) {
    const angle = 2 * Math.PI * (this.mode.q.reduce((sum, value, axis) => sum + value * r[axis], 0) - phase);
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    return this.mode.displacements[atom].map(([real, imaginary]) => this.amplitude * (real * c - imaginary * s));
  }

  build(cell, repeats, filled) {
    this.repeats = repeats;
    this.atoms = [];
    const add = (atom, r) => this.atoms.push({ atom, r, symbol: cell.symbols[atom], at: place(r, cell.lattice) });
    cell.positions.forEach((fraction, atom) => {
      for (let i = 0; i < repeats[0]; i += 1) for (let j = 0; j < repeats[1]; j += 1) for (let k = 0; k < repeats[2]; k += 1) add(atom, fraction.map((value, axis) => value + [i, j, k][axis]));
      if (!filled) return;
      // atoms on faces are drawn on the opposite ones as well
      const near = fraction.map((value) => (Math.abs(value - Math.round(value)) < 1e-2 ? [0, 1] : [value]));
      for (const x of near[0]) for (const y of near[1]) for (const z of near[2]) {
        const r = [x, y, z];
        if (r.some((value, axis) => Math.abs(value - fraction[axis]) > 1e-2)) add(atom, r);
      }
    });
    const elements = cell.elements;
    this.radius = (symbol) => elements[symbol][1];
    this.colour = (symbol) => elements[symbol][0];
    this.edges = [];
    const corner = (bits) => place(bits, cell.lattice);
    for (let axis = 0; axis < 3; axis += 1) for (let other = 0; other < 4; other += 1) {
      const bits = [0, 0, 0];
      [bits[(axis + 1) % 3], bits[(axis + 2) % 3]] = [other & 1, other >> 1];
      const end = [...bits];
      end[axis] = 1;
      this.edges.push([corner(bits), corner(end)]);
    }
    this.bonds = [];
    this.atoms.forEach((a, i) => {
      for (let j = i + 1; j < this.atoms.length; j += 1) {
        const b = this.atoms[j];
        const reach = 1.15 * (this.radius(a.symbol) + this.radius(b.symbol));
        if (norm(a.at.map((value, axis) => value - b.at[axis])) < reach) this.bonds.push([i, j]);
      }
    });
    const points = [...this.edges.flat(), ...this.atoms.map((one) => one.at)];
    const ends = [0, 1, 2].map((axis) => [Math.min, Math.max].map((end) => end(...points.map((point) => point[axis]))));
    this.centre = ends.map(([low, high]) => (low + high) / 2);
    this.size = Math.max(...points.map((point) => norm(point.map((value, axis) => value - this.centre[axis])))) + 0.8;
    this.key.replaceChildren();
    for (const symbol of Object.keys(elements)) {
      const item = element("span", {}, this.key);
      const dot = shape("svg", { width: 14, height: 14, "aria-hidden": "true" }, item);
      shape("circle", { cx: 7, cy: 7, r: 5.5, fill: elements[symbol][0], class: "ball" }, dot);
      item.append(` ${symbol}`);
    }
    this.canvas.setAttribute("aria-label", `Ball drawing of ${this.name}: ${this.title.textContent}. Arrow keys turn it.`);
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !this.atoms) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const [ink, mark] = [style.getPropertyValue("--soft"), style.getPropertyValue("--arrow")];
    const scale = Math.min(width, height) / (2 * this.size);
    const project = (point) => {
      const [x, y, z] = this.turned.map((row) => row.reduce((sum, value, axis) => sum + value * (point[axis] - this.centre[axis]), 0));
      return [width / 2 + scale * x, height / 2 - scale * y, z];
    };
    pen.lineWidth = 1;
    pen.strokeStyle = ink;
    pen.beginPath();
    for (const [a, b] of this.edges) { const [from, to] = [project(a), project(b)]; pen.moveTo(from[0], from[1]); pen.lineTo(to[0], to[1]); }
    pen.stroke();
    const shifted = this.atoms.map((one) => (this.mode ? one.at.map((value, axis) => value + this.moved(one.atom, one.r, this.phase)[axis]) : one.at));
    const seen = shifted.map(project);
    const items = [
      ...seen.map((point, i) => ({ z: point[2], draw: () => this.ball(pen, point, 0.36 * this.radius(this.atoms[i].symbol) * scale, this.colour(this.atoms[i].symbol), ink) })),
      ...this.bonds.map(([i, j]) => ({ z: Math.min(seen[i][2], seen[j][2]) - 0.01, draw: () => { pen.lineWidth = Math.max(1.5, 0.13 * scale); pen.strokeStyle = "#9aa0a6"; pen.beginPath(); pen.moveTo(seen[i][0], seen[i][1]); pen.lineTo(seen[j][0], seen[j][1]); pen.stroke(); } })),
    ];
    items.sort((a, b) => a.z - b.z).forEach((item) => item.draw());
    if (!this.mode || !this.arrows) return;
    pen.strokeStyle = mark;
    pen.fillStyle = mark;
    for (const one of this.atoms) {
      // arrows show the largest displacement of the wave at the moment its first atom turns
      const reach = this.moved(one.atom, one.r, 0).map((value) => (1.5 * value) / this.amplitude);
      this.arrow(pen, project(one.at), project(one.at.map((value, axis) => value + reach[axis])));
    }
  }

  ball(pen, [x, y], radius, colour, ink) {
    const shade = pen.createRadialGradient(x - radius / 3, y - radius / 3, radius / 8, x, y, radius);
    shade.addColorStop(0, "#fff");
    shade.addColorStop(0.35, colour);
    shade.addColorStop(1, colour);
    pen.fillStyle = shade;
    pen.strokeStyle = ink;
    pen.lineWidth = 0.7;
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fill();
    pen.stroke();
  }

  arrow(pen, from, to) {
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    const length = Math.hypot(dx, dy);
    if (length < 3) return;
    const [ux, uy] = [dx / length, dy / length];
    const head = Math.min(7, length / 2);
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(from[0], from[1]);
    pen.lineTo(to[0] - ux * head, to[1] - uy * head);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(to[0], to[1]);
    pen.lineTo(to[0] - head * (ux - uy / 2), to[1] - head * (uy + ux / 2));
    pen.lineTo(to[0] - head * (ux + uy / 2), to[1] - head * (uy - ux / 2));
    pen.fill();
  }

  file(ending) {
    const q = this.mode.q.map((value) => Number(value.toFixed(4))).join("_");
    return `${this.name}-mode-${this.mode.branch}-q_${q}.${ending}`.replace(/[^\w.+-]+/g, "-");
  }

  // one period of the mode in cells that it closes in, extended XYZ
  xyz(frames = 24) {
    const repeats = closing(this.mode.q) ?? this.repeats;
    const lattice = this.cell.lattice.map((row, axis) => row.map((value) => value * repeats[axis])).flat().map((value) => value.toFixed(6)).join(" ");
    const text = [];
    for (let frame = 0; frame < frames; frame += 1) {
      const lines = [];
      this.cell.positions.forEach((fraction, atom) => {
        for (let i = 0; i < repeats[0]; i += 1) for (let j = 0; j < repeats[1]; j += 1) for (let k = 0; k < repeats[2]; k += 1) {
          const r = fraction.map((value, axis) => value + [i, j, k][axis]);
          const u = this.moved(atom, r, frame / frames);
          lines.push(`${this.cell.symbols[atom]} ${place(r, this.cell.lattice).map((value, axis) => (value + u[axis]).toFixed(6)).join(" ")}`);
        }
      });
      const q = this.mode.q.map((value) => value.toFixed(6)).join(" ");
      text.push(lines.length, `Lattice="${lattice}" Properties=species:S:1:pos:R:3 pbc="T T T" frequency_THz=${this.mode.frequency.toFixed(4)} q="${q}" frame=${frame}`, ...lines);
    }
    return `${text.join("\n")}\n`;
  }

  // v_sim's ascii: lattice lower triangular, one mode as metadata, see the manual of V_Sim
  ascii() {
    const { lattice } = this.cell;
    const [a, b, c] = lattice;
    const dot = (x, y) => x.reduce((sum, value, axis) => sum + value * y[axis], 0);
    const along = a.map((value) => value / norm(a));
    const across = b.map((value, axis) => value - dot(b, along) * along[axis]);
    const side = across.map((value) => value / norm(across));
    const up = [along[1] * side[2] - along[2] * side[1], along[2] * side[0] - along[0] * side[2], along[0] * side[1] - along[1] * side[0]];
    const turned = (vector) => [dot(vector, along), dot(vector, side), dot(vector, up)];
    const [, tb, tc] = lattice.map(turned);
    const show = (values) => values.map((value) => value.toFixed(6)).join(" ");
    const lines = [`# ${this.name}, one phonon mode`, show([norm(a), tb[0], tb[1]]), show(tc)];
    this.cell.positions.forEach((fraction, atom) => lines.push(`${show(turned(place(fraction, lattice)))} ${this.cell.symbols[atom]}`));
    lines.push(`#metaData: qpt=[${[...this.mode.q, this.mode.frequency].map((value) => value.toFixed(6)).join(";")} \\`);
    for (const one of this.mode.displacements) {
      const [real, imaginary] = [0, 1].map((part) => turned(one.map((value) => value[part])));
      lines.push(`#; ${[...real, ...imaginary].map((value) => value.toFixed(6)).join("; ")} \\`);
    }
    return `${lines.join("\n")}\n# ]\n`;
  }

  saveXyz() { save(this.file("xyz"), this.xyz()); }

  saveWebsite() { save(this.file("json").replace(/-mode-.*(?=\.json)/, "-phonons"), JSON.stringify(this.mode.whole()), "application/json"); }

  saveAscii() { save(this.file("ascii"), this.ascii()); }
}
