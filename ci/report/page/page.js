"use strict";
// Search, filter and sort of the tables marked `data-list`: plain DOM, no request, nothing kept.
for (const tools of document.querySelectorAll(".tools")) {
  const table = document.getElementById(tools.dataset.for);
  const rows = () => [...table.tBodies[0].rows];
  const search = tools.querySelector("input"), count = tools.querySelector("output");
  const buttons = [...tools.querySelectorAll("button")];
  const key = (row, at) => {
    let end = 0;
    const cell = [...row.cells].find(c => (end += c.colSpan) > at); // a cell may reach over several columns
    return cell ? cell.dataset.key ?? cell.textContent.trim() : "";
  };
  const read = row => [...row.cells].filter(c => !c.querySelector("svg")).map(c => c.textContent).join(" ").toLowerCase();
  const texts = new Map(rows().map(row => [row, read(row)])); // without the titles inside drawings
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const only = buttons.filter(b => b.getAttribute("aria-pressed") === "true").map(b => b.value);
    let shown = 0;
    for (const row of rows()) {
      const text = texts.get(row);
      row.hidden = !(words.every(w => text.includes(w)) && (!only.length || only.includes(row.dataset.verdict)));
      const below = document.getElementById(row.dataset.below ?? "");
      if (below) below.hidden = row.hidden;
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows().length}`;
  };
  search.addEventListener("input", show);
  for (const b of buttons) b.addEventListener("click", () => {
    b.setAttribute("aria-pressed", String(b.getAttribute("aria-pressed") !== "true")); show();
  });
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button"); // what the keyboard reaches and a screen reader names
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1, number = head.dataset.sort === "number";
      const sorted = rows().map(row => [key(row, at), row]).sort(([a], [b]) =>
        sign * (number ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true })));
      table.tBodies[0].append(...sorted.map(([, row]) => row));
    };
    head.addEventListener("click", sort); // the button's clicks arrive here too
  });
  tools.hidden = false;
  show();
}
