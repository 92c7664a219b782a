// Phonons of one material: unpacks the curves, links bands, densities of states, errors and modes.

const inflate = async (text) => {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

// the inverse of charts.pack: low bytes before high bytes, second differences of whole steps
const unpack = async ({ step, shape: [rows, columns], data }) => {
  const bytes = await inflate(data);
  const size = rows * columns;
  const values = [];
  for (let row = 0; row < rows; row += 1) {
    const line = new Float64Array(columns);
    let slope = 0;
    let value = 0;
    for (let i = 0; i < columns; i += 1) {
      const place = row * columns + i;
      slope = ((slope + (bytes[place] | (bytes[size + place] << 8))) << 16) >> 16;
      value = ((value + slope) << 16) >> 16;
      line[i] = value * step;
    }
    values.push(line);
  }
  return values;
};

const ROLES = { reference: "reference", before: "before", after: "after" };

class Phonons {
  constructor(host, data, looks, viewer) {
    Object.assign(this, { host, data, looks, viewer });
  }

  async start() {
    const { data } = this;
    this.sides = await Promise.all(data.sides.map(async (side) => ({ ...side, rows: await unpack(side.bands), states: (await unpack(side.dos))[0] })));
    this.modes = await Promise.all(data.modes.map(async (set) => ({ ...set, bytes: new Int8Array((await inflate(set.data)).buffer) })));
    this.drawBands();
    this.drawErrors();
    this.host.classList.add("ready");
  }

  label(side) {
    return { reference: "reference", before: `before (${side.name})`, after: `after (${side.name})` }[side.role] ?? side.name;
  }

  // what lies later is on top: the reference thick below, the potential that would be used above all
  ordered() {
    const order = { reference: 0, before: 1, after: 3 };
    return [...this.sides].sort((a, b) => (order[a.role] ?? 2) - (order[b.role] ?? 2));
  }

  bandSeries(side) {
    const { points, segments } = this.data;
    const [x, y] = [[], []];
    for (const row of side.rows) {
      segments.forEach((segment, s) => {
        for (let i = 0; i < points; i += 1) {
          x.push(segment[4] + ((segment[5] - segment[4]) * i) / (points - 1));
          y.push(row[s * points + i]);
        }
        x.push(null);
        y.push(null);
      });
    }
    const shown = Boolean(ROLES[side.role]);
    return { name: side.name, label: this.label(side), look: side.look, role: ROLES[side.role] ?? "", x, y, shown };
  }

  // the place of a point of a series of bands: branch, segment, point within it
  where(i) {
    const { points, segments } = this.data;
    const perRow = segments.length * (points + 1);
    const rest = i % perRow;
    return { branch: Math.floor(i / perRow), segment: Math.floor(rest / (points + 1)), point: rest % (points + 1) };
  }

  wave({ segment, point }, ends = this.data.segments.map((one) => [one[2], one[3]])) {
    const [start, end] = ends[segment];
    const share = point / (this.data.points - 1);
    return start.map((value, axis) => value + share * (end[axis] - value));
  }

  drawBands() {
    const { data } = this;
    const drawn = this.ordered();
    const bands = drawn.map((side) => this.bandSeries(side));
    const states = drawn.map((side, index) => ({
      ...bands[index], x: Array.from(side.states), y: Array.from(side.states, (_, i) => data.dos_grid[0] + i * data.dos_grid[1]), density: true,
    }));
    const last = data.ticks[data.ticks.length - 1][0];
    const chart = {
      key: "bands",
      alt: `Phonon bands and densities of states: ${drawn.map((side) => this.label(side)).join(", ")}.`,
      panels: [
        { x: { label: "", ticks: data.ticks, range: [0, last] }, y: { label: "frequency (THz)" }, series: bands, y_guides: [[0, ""]] },
        { x: { label: "DOS (1/THz)" }, y: { label: "" }, series: states, y_guides: [[0, ""]] },
      ],
    };
    this.chart = new Chart(this.host, chart, this.looks, {
      keep: true, shareY: true, weights: [4, 1], legend: true, height: (width) => Math.max(300, Math.min(460, width * 0.52)),
      hint: "Point at a band for its values; choose a point to see the mode move. Drag to zoom.",
      describe: (one, i) => this.describe(one, i),
      pick: (one, i) => this.pick(one, i),
      turn: (at, turn) => this.turn(at, turn),
    });
  }

  turn(at, turn) {
    if (at.one.density) return null;
    const perRow = this.data.segments.length * (this.data.points + 1);
    const i = at.i + turn * perRow;
    return i >= 0 && i < at.one.x.length ? { ...at, i } : at;
  }

  name({ segment, point }) {
    const [start, end] = this.data.segments[segment];
    if (point === 0) return start;
    if (point === this.data.points - 1) return end;
    return `${start}–${end}`;
  }

  describe(one, i) {
    if (one.density) return `${one.label}: ${digits(one.x[i])} states/THz at ${digits(one.y[i])} THz`;
    const place = this.where(i);
    const q = this.wave(place).map((value) => digits(Number(value.toFixed(3)))).join(", ");
    const column = place.segment * this.data.points + place.point;
    const values = this.ordered().filter((side) => !this.chart.hidden.has(side.name)).map((side) => `${this.label(side)} ${side.rows[place.branch][column].toFixed(3).replace("-", "−")}`);
    return `${this.name(place)}, q = (${q}), branch ${place.branch + 1}: ${values.join(", ")} THz`;
  }

  pick(one, i) {
    if (one.density || !this.modes.length) return;
    const { branch, segment, point } = this.where(i);
    this.showMode(this.modes.find((set) => set.side === one.name) ?? this.modes[0], branch, segment * this.data.points + point);
  }

  // the mode of a branch at the nearest point of the path, of the same segment if possible, whose modes are known
  showMode(set, branch, column) {
    const { points } = this.data;
    const segment = Math.floor(column / points);
    const far = (candidate) => Math.abs(candidate - column) + (Math.floor(candidate / points) === segment ? 0 : 1e6);
    const nearest = set.points.reduce((best, candidate) => (far(candidate) < far(best) ? candidate : best));
    const found = { branch, segment: Math.floor(nearest / points), point: nearest % points };
    const side = this.sides.find((one) => one.name === set.side);
    const frequency = side.rows[branch][nearest];
    const off = nearest === column ? "" : ", the nearest point with a mode";
    this.viewer.showMode({
      cell: set.cell, q: this.wave(found, set.ends), displacements: this.displacements(set, set.points.indexOf(nearest), branch), frequency, branch: branch + 1,
      words: `${this.name(found)}, branch ${branch + 1} of ${this.label(side)}: ${frequency.toFixed(3).replace("-", "−")} THz${off}`,
      others: this.modes.filter((other) => other !== set).map((other) => ({
        words: `Same branch of ${this.label(this.sides.find((one) => one.name === other.side))}`, show: () => this.showMode(other, branch, column),
      })),
      whole: () => this.website(set),
    });
  }

  // real and imaginary parts of the displacement of every atom, by axis
  displacements(set, place, branch) {
    const branches = 3 * set.cell.symbols.length;
    const from = (place * branches + branch) * 2 * branches;
    const parts = Array.from(set.bytes.slice(from, from + 2 * branches), (value) => value / 127);
    return set.cell.symbols.map((_, atom) => [0, 1, 2].map((axis) => [parts[6 * atom + 2 * axis], parts[6 * atom + 2 * axis + 1]]));
  }

  // all modes of a side in the JSON of the phonon website: frequencies in 1/cm, vectors that hold the phase of each atom's place
  website(set) {
    const { points, segments } = this.data;
    const { cell } = set;
    const side = this.sides.find((one) => one.name === set.side);
    const branches = side.rows.map((_, branch) => branch);
    const places = set.points.map((one) => ({ column: one, segment: Math.floor(one / points), point: one % points }));
    const numbers = cell.symbols.map((symbol) => cell.elements[symbol][3]);
    const qpoints = places.map((one) => this.wave(one, set.ends));
    const phased = (parts, r, q) => {
      const angle = 2 * Math.PI * q.reduce((sum, value, axis) => sum + value * r[axis], 0);
      const [c, s] = [Math.cos(angle), Math.sin(angle)];
      return parts.map(([real, imaginary]) => [real * c - imaginary * s, real * s + imaginary * c]);
    };
    const breaks = segments.map((_, segment) => {
      const mine = places.map((one, index) => [one.segment, index]).filter(([one]) => one === segment).map(([, index]) => index);
      return mine.length ? [mine[0], mine[mine.length - 1] + 1] : null;
    }).filter((one) => one !== null);
    const corners = breaks.flatMap(([start, end]) => [start, end - 1]);
    return {
      name: `${this.viewer.name}, ${this.label(side)}`, formula: this.viewer.name, natoms: cell.symbols.length, lattice: cell.lattice,
      atom_types: cell.symbols, atom_numbers: numbers, atomic_numbers: [...new Set(numbers)],
      atom_pos_red: cell.positions, atom_pos_car: cell.positions.map((one) => place(one, cell.lattice)), repetitions: [3, 3, 3],
      qpoints, distances: places.map((one) => segments[one.segment][4] + ((segments[one.segment][5] - segments[one.segment][4]) * one.point) / (points - 1)),
      line_breaks: breaks, highsym_qpts: corners.map((index) => [index, this.name(places[index])]),
      eigenvalues: places.map((one) => branches.map((branch) => side.rows[branch][one.column] * 33.35641)),
      vectors: places.map((_, index) => branches.map((branch) => this.displacements(set, index, branch).map((parts, atom) => phased(parts, cell.positions[atom], qpoints[index])))),
    };
  }

  drawErrors() {
    const [truth, ...others] = this.ordered();
    const host = this.host.closest(".material").querySelector(".errors");
    const parity = this.host.closest(".material").querySelector(".parity");
    const compared = others.filter((side) => side.branch_mae?.length && ROLES[side.role]);
    if (truth.role !== "reference" || !compared.length) {
      host?.closest("figure").remove();
      parity?.closest("figure").remove();
      return;
    }
    const branches = compared[0].branch_mae.map((_, i) => i + 1);
    const step = Math.max(1, Math.ceil(branches.length / 12));
    const ticks = branches.filter((_, i) => i % step === 0).map((one) => [one, String(one)]);
    new Chart(host, {
      key: "branch-errors", alt: "Mean absolute error of every branch, lowest first.",
      panels: [{ x: { label: "branch, lowest first", ticks }, y: { label: "MAE (THz)" }, series: compared.map((side) => ({ name: side.name, label: this.label(side), look: side.look, kind: "bars", x: branches, y: side.branch_mae })) }],
    }, this.looks);
    const every = Math.max(1, Math.ceil((truth.rows.length * truth.rows[0].length) / 1500));
    const flat = (side) => side.rows.flatMap((row) => Array.from(row)).filter((_, i) => i % every === 0);
    new Chart(parity, {
      key: "parity", alt: "Frequencies along the path against those of the reference.",
      panels: [{ x: { label: `${truth.name} (THz)` }, y: { label: "potential (THz)" }, diagonal: true, series: compared.map((side) => ({ name: side.name, label: this.label(side), look: side.look, kind: "dots", small: true, x: flat(truth), y: flat(side) })) }],
    }, this.looks);
  }
}
