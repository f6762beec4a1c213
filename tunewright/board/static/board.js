"use strict";
// Keeps a page as its folders are: parts marked data-refresh are taken anew from the page's own address.
(function () {
  const PAUSE = 4000;
  let busy = false;
  async function refresh() {
    if (busy || document.hidden) return;
    const parts = [...document.querySelectorAll("[data-refresh]")];
    if (!parts.length) return;
    busy = true;
    try {
      const answer = await fetch(location.pathname + location.search);
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of parts) {
        const now = page.querySelector(`[data-refresh="${old.dataset.refresh}"]`);
        if (!now || now.outerHTML === old.source || old.contains(document.activeElement)) continue;
        const known = old.source;
        old.source = now.outerHTML;
        if (known === undefined && now.innerHTML === old.innerHTML) continue;
        old.replaceChildren(...now.childNodes);
        if (window.boardCurves) window.boardCurves(old);
      }
    } catch (error) { /* the board has ended, or is asked again */ } finally { busy = false; }
  }
  if (document.querySelector("[data-refresh]")) {
    document.querySelectorAll("[data-refresh]").forEach((part) => { part.source = part.outerHTML; });
    setInterval(refresh, PAUSE);
    document.addEventListener("board:ended", refresh);
    document.addEventListener("visibilitychange", refresh);
    if (document.querySelector("[data-refresh] [role=status]")) setTimeout(refresh, 700);
  }

  const form = document.querySelector("[data-start]");
  if (!form) return;
  const said = document.querySelector("[data-said]");
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    form.elements.token.value = given;
    history.replaceState(null, "", location.pathname);
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { recipe, name, token } = form.elements;
    said.hidden = false;
    try {
      const answer = await fetch("/start", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Tunewright-Token": token.value },
        body: JSON.stringify({ recipe: recipe.value, name: name.value }),
      });
      const told = await answer.json();
      said.textContent = answer.ok ? "Started: " + told.name : told.error;
      if (answer.ok) refresh();
    } catch (error) {
      said.textContent = "The board has ended, or refused the request.";
    }
  });
})();
