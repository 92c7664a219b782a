// Tables that sort, with a chooser where there are many columns; digests to copy.

const MOST_COLUMNS = 9;
const MOST_ROWS = 300;
const every = (selector, root = document) => Array.from(root.querySelectorAll(selector));

const cellValue = (row, index) => {
  const cell = row.cells[index];
  const key = cell.dataset.sort ?? cell.textContent.trim();
  if (key === "inf") return Infinity;
  const number = Number(key.replace("−", "-"));
  return key === "" || Number.isNaN(number) ? key.toLowerCase() : number;
};

const unknown = (item) => item === Infinity || item === "–";

const compare = (a, b) => {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
};

// column names become buttons only where they can do something
const makeSortable = (table) => {
  const heads = every("thead th", table);
  const body = table.tBodies[0];
  if (body.rows.length < 2) return;
  table.classList.add("sortable");
  heads.forEach((head, index) => {
    const button = element("button", { type: "button" }, null, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = Array.from(body.rows).map((row, at) => ({ row, at, item: cellValue(row, index) }));
      rows.sort((a, b) => {
        // what is not known stays at the end in both directions
        const missing = unknown(a.item) - unknown(b.item);
        if (missing) return missing;
        const order = compare(a.item, b.item);
        return (down ? -order : order) || a.at - b.at;
      });
      body.append(...rows.map((entry) => entry.row));
    });
  });
};

const makeChooser = (table) => {
  const heads = every("thead th", table);
  if (heads.length <= MOST_COLUMNS) return;
  const chooser = element("details", { class: "columns" });
  element("summary", {}, chooser, `Columns (${MOST_COLUMNS} of ${heads.length} shown)`);
  const list = element("div", { class: "column-list" }, chooser);
  const show = (index, shown) => every("tr", table).forEach((row) => { row.cells[index].hidden = !shown; });
  heads.forEach((head, index) => {
    if (index === 0) return;
    const label = element("label", {}, list);
    const box = element("input", { type: "checkbox" }, label);
    box.checked = index < MOST_COLUMNS;
    show(index, box.checked);
    label.append(` ${head.textContent}`);
    box.addEventListener("change", () => show(index, box.checked));
  });
  table.closest(".scroll").before(chooser);
};

const makeCopies = (root) => {
  every("code[data-copy]", root).forEach((code) => {
    const button = element("button", { type: "button", class: "copy", "aria-label": `Copy ${code.textContent}` }, null, "copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.dataset.copy);
        button.textContent = "copied";
      } catch {
        // without the right to the clipboard the whole digest is shown, to be marked by hand
        code.textContent = code.dataset.copy;
      }
    });
    code.after(button);
  });
};

const prepareTables = (root) => {
  every("table", root).forEach((table) => { makeChooser(table); makeSortable(table); });
  makeCopies(root);
};
