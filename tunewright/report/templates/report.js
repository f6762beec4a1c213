"use strict";
// Filter, search and unfold the table of answers. Without this script every row is shown.
for (const box of document.querySelectorAll("[data-rows]")) {
  const rows = [...box.querySelectorAll("tbody tr")];
  const bar = box.querySelector(".filter");
  const more = box.querySelector(".more");
  const search = box.querySelector("input");
  const page = 8;
  let fate = "", most = page;
  const draw = () => {
    const words = search.value.trim().toLowerCase();
    let hits = 0;
    for (const row of rows) {
      const hit = (!fate || row.dataset.fate === fate) && (!words || row.textContent.toLowerCase().includes(words));
      hits += hit ? 1 : 0;
      row.hidden = !hit || hits > most;
    }
    more.hidden = hits <= most;
    more.textContent = "Show more (" + (hits - most) + " left)";
    box.querySelector(".empty").hidden = hits > 0;
  };
  bar.hidden = false;
  for (const button of bar.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      fate = button.dataset.fate;
      most = page;
      for (const other of bar.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
      draw();
    });
  }
  search.addEventListener("input", () => { most = page; draw(); });
  more.addEventListener("click", () => { most += 4 * page; draw(); });
  draw();
}
