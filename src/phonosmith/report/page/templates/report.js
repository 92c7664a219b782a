"use strict";
(() => {
  const every = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const value = (row, index) => {
    const cell = row.cells[index];
    const key = cell.dataset.sort ?? cell.textContent.trim();
    if (key === "inf") return Infinity;
    const number = Number(key);
    return key === "" || Number.isNaN(number) ? key.toLowerCase() : number;
  };
  const unknown = (item) => item === Infinity || item === "–";
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };

  // column names become buttons only where they can do something
  every("table.sortable").forEach((table) => {
    const heads = every("thead th", table);
    const body = table.tBodies[0];
    heads.forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.textContent = "";
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = Array.from(body.rows).map((row, place) => ({ row, place, item: value(row, index) }));
        rows.sort((a, b) => {
          // what is not known stays at the end in both directions
          const missing = unknown(a.item) - unknown(b.item);
          if (missing) return missing;
          const order = compare(a.item, b.item);
          return (down ? -order : order) || a.place - b.place;
        });
        body.append(...rows.map((entry) => entry.row));
      });
    });
  });

  const filter = document.getElementById("filter");
  if (filter) {
    const rows = every("#overview tbody tr");
    const shown = document.getElementById("shown");
    filter.addEventListener("input", () => {
      const word = filter.value.trim().toLowerCase();
      let count = 0;
      rows.forEach((row) => {
        row.hidden = !row.textContent.toLowerCase().includes(word);
        count += row.hidden ? 0 : 1;
      });
      shown.textContent = word ? `${count} of ${rows.length} materials` : "";
    });
  }

  const open = (state) => every("details").forEach((part) => { part.open = state; });
  document.getElementById("open-all")?.addEventListener("click", () => open(true));
  document.getElementById("close-all")?.addEventListener("click", () => open(false));
  window.addEventListener("beforeprint", () => open(true));

  const zoom = document.getElementById("zoom");
  every("figure img").forEach((image) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    image.replaceWith(button);
    button.append(image);
    button.title = "Enlarge";
    button.addEventListener("click", () => {
      const large = image.cloneNode();
      large.loading = "eager";
      zoom.querySelector(".zoomed").replaceChildren(large);
      zoom.showModal();
    });
  });

  every("[hidden].tools, [hidden].hint").forEach((part) => { part.hidden = false; });
})();
