// The page: one material at a time, filter, figures when they come into sight, print.

const readData = async (id) => JSON.parse(new TextDecoder().decode(await inflate(document.getElementById(id).textContent)));

const startPage = async () => {
  const [looks, campaign] = await Promise.all([readData("looks"), readData("campaign-data")]);
  const sections = every(".material");
  const drawn = new WeakSet();

  // a chart is made when it is first seen; its data belong to its section, or to the page
  const drawIn = (root, data) => {
    every("[data-chart]", root).forEach((host) => {
      if (drawn.has(host) || !host.offsetParent) return;
      drawn.add(host);
      const chart = data.charts?.find((one) => one.key === host.dataset.chart);
      if (chart) new Chart(host, chart, looks);
    });
  };

  const prepared = new WeakMap();
  const prepareSection = async (section) => {
    prepareTables(section);
    const data = await readData(`${section.id}-data`);
    const host = section.querySelector(".crystal");
    const viewer = host && (data.crystal || data.phonons) ? new Viewer(host, data.crystal, data.phonons?.cell, section.dataset.name) : null;
    const bands = section.querySelector(".bands");
    if (bands && data.phonons) await new Phonons(bands, data.phonons, looks, viewer).start();
    every("details", section).forEach((part) => part.addEventListener("toggle", () => drawIn(section, data)));
    return data;
  };
  const prepare = async (section) => {
    if (!prepared.has(section)) prepared.set(section, prepareSection(section));
    drawIn(section, await prepared.get(section));
    performance.mark("drawn");
  };

  const many = sections.length > 1;
  const picker = document.getElementById("picker");
  let matching = sections;
  let current = null;
  // whoever steps from material to material keeps the buttons in sight
  let stepping = false;

  const show = (section) => {
    if (!section) return;
    current?.classList.remove("current");
    current = section;
    section.classList.add("current");
    if (many) {
      picker.value = section.id;
      const index = matching.indexOf(section);
      document.getElementById("previous").disabled = index <= 0;
      document.getElementById("next").disabled = index < 0 || index >= matching.length - 1;
      document.getElementById("place").textContent = index < 0 ? "" : `${index + 1} of ${matching.length}`;
    }
    prepare(section);
  };

  const fromAddress = () => {
    const target = document.getElementById(decodeURIComponent(window.location.hash.slice(1)));
    const section = target?.closest(".material");
    if (section && section !== current) {
      show(section);
      if (!stepping) target.scrollIntoView();
    }
    stepping = false;
  };

  if (many) {
    const go = (id) => { stepping = true; window.location.hash = id; };
    picker.addEventListener("change", () => go(picker.value));
    const step = (by) => go(matching[matching.indexOf(current) + by].id);
    document.getElementById("previous").addEventListener("click", () => step(-1));
    document.getElementById("next").addEventListener("click", () => step(1));
  }
  const filter = document.getElementById("filter");
  if (filter) {
    const rows = every("#overview tbody tr").map((row) => ({ row, words: row.textContent.toLowerCase(), place: row.querySelector("a").getAttribute("href").split("#")[1] }));
    const shown = document.getElementById("shown");
    const more = document.getElementById("more");
    // of very many rows the first are shown until the others are asked for: laying them out takes seconds
    if (rows.length > MOST_ROWS) {
      const table = document.getElementById("overview");
      table.classList.add("long");
      more.textContent = `Show all ${rows.length} rows`;
      more.hidden = false;
      more.addEventListener("click", () => { table.classList.remove("long"); more.hidden = true; });
    }
    filter.addEventListener("input", () => {
      const word = filter.value.trim().toLowerCase();
      const fitting = new Set(rows.filter((one) => one.words.includes(word)).map((one) => one.place));
      rows.forEach((one) => { one.row.hidden = !fitting.has(one.place); });
      shown.textContent = word ? `${fitting.size} of ${rows.length} materials` : "";
      if (!many) return;
      matching = sections.filter((section) => fitting.has(section.id));
      sections.forEach((section) => {
        section.classList.toggle("filtered", !fitting.has(section.id));
        picker.querySelector(`option[value="${section.id}"]`).hidden = !fitting.has(section.id);
      });
      show(matching.includes(current) ? current : matching[0]);
    });
  }

  every("main > section:not(.materials)").forEach((part) => prepareTables(part));
  every(".tools, .hint").forEach((part) => { part.hidden = false; });
  const parts = every("main > section:not(.materials)");
  const seen = new IntersectionObserver((entries) => entries.forEach((entry) => { if (entry.isIntersecting) drawIn(entry.target, campaign); }), { rootMargin: "300px" });
  parts.forEach((part) => seen.observe(part));
  show(sections[0]);
  if (!sections.length) performance.mark("drawn");
  fromAddress();
  window.addEventListener("hashchange", fromAddress);

  const open = (state) => every("details.part", current ?? document).forEach((part) => { part.open = state; });
  every(".open-all").forEach((button) => button.addEventListener("click", () => open(true)));
  every(".close-all").forEach((button) => button.addEventListener("click", () => open(false)));
  window.addEventListener("beforeprint", () => { open(true); if (current) prepare(current); parts.forEach((part) => drawIn(part, campaign)); });
};

document.documentElement.classList.add("js");
document.addEventListener("DOMContentLoaded", () => { startPage(); });
