"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = [...body.rows].filter((row) => row.dataset.key);
  const search = document.getElementById("search");
  const states = document.getElementById("states");
  const count = document.getElementById("count");

  // Filtering: hides rows, and the pictures that belong to them.
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = (!states.value || row.dataset.state === states.value) &&
        words.every((word) => text.includes(word));
      row.hidden = !fits;
      document.getElementById(row.dataset.key).hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} scans`;
  };
  search.addEventListener("input", show);
  states.addEventListener("change", show);

  // Sorting: cells with data-value by that number, others by the alphabet.
  const value = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  const compare = (a, b) => typeof a === "number"
    ? a - b : a.localeCompare(b, undefined, { numeric: true });
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = rows.map((row) => [value(row, column), row]);
      keyed.sort(([a], [b]) => (down ? -1 : 1) * compare(a, b));
      body.append(...keyed.map(([, row]) => row));
    });
  });

  // Pictures: a click makes them larger; one that is gone says so.
  for (const picture of document.images) {
    if (!picture.closest(".layers")) {
      picture.addEventListener("click", () => picture.classList.toggle("large"));
    }
    const missing = () => picture.closest("article").classList.add("missing");
    picture.addEventListener("error", missing);
    if (picture.complete && picture.src && !picture.naturalWidth) missing();
  }

  if (rows.length) {
    document.getElementById("controls").hidden = false;
    show();
  }
})();
