"use strict";
// Many runs as points: axes of choice, a recipe at the pointer or the focus. One stop for the tab key; arrows move on.
(function () {
  const form = document.querySelector("[data-scatter]");
  if (!form) return;
  const box = document.getElementById("scatter"), picked = document.getElementById("picked");
  const SVG = "http://www.w3.org/2000/svg";
  const KEYS = 8;
  let told = null, shown = [], at = -1, ring = null, dots = [], asked = 0;

  const make = (tag, attributes, parent, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };
  const html = (tag, text, parent, kind) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    if (parent) parent.append(node);
    return node;
  };
  const written = (axis, x, unit) => {
    if (axis === "started") return new Date(1000 * x).toISOString().slice(0, 16).replace("T", " ");
    if (axis === "bytes") {
      const i = x < 1 ? 0 : Math.min(4, Math.floor(Math.log(x) / Math.log(1000)));
      return Number((x / 1000 ** i).toPrecision(3)) + " " + ["B", "kB", "MB", "GB", "TB"][i];
    }
    if (axis === "seconds") return x < 120 ? Number(x.toPrecision(3)) + " s" : x < 7200 ? Number((x / 60).toPrecision(3)) + " min" : Number((x / 3600).toPrecision(3)) + " h";
    if (unit === "fraction") return Number((100 * x).toPrecision(3)) + " %";
    return String(Number(x.toPrecision(3)));
  };
  const ticks = (low, high, most) => {
    const raw = (high - low) / most, ten = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((f) => f * ten).find((s) => s >= raw * 0.999);
    const out = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) out.push(i * step);
    return out;
  };
  const chosen = (name) => form.elements[name].value;
  const label = (name) => form.elements[name].selectedOptions[0].title;
  const unitOf = (axis) => { const one = shown.find((p) => p.unit[axis]); return one ? one.unit[axis] : ""; };

  function draw() {
    const xName = chosen("x"), yName = chosen("y"), group = chosen("group");
    shown = told.points.filter((p) => (group === "" || p.group === Number(group)) && p.figures[xName] !== null && p.figures[yName] !== null);
    shown.sort((a, b) => a.figures[xName] - b.figures[xName] || a.figures[yName] - b.figures[yName]);
    box.replaceChildren();
    dots = []; at = -1; ring = null;
    if (!shown.length) { html("p", "No run has both figures.", box, "none"); return; }
    const width = Math.max(280, box.clientWidth), height = width < 500 ? 320 : 440;
    const edge = { left: 66, right: 18, top: 30, bottom: 50 };
    const span = (name) => {
      const values = shown.map((p) => p.figures[name]);
      let low = Math.min(...values), high = Math.max(...values);
      if (low === high) { const by = Math.abs(low) * 0.1 || 0.5; low -= by; high += by; }
      const by = (high - low) * 0.05;
      return [low - by, high + by];
    };
    const [x0, x1] = span(xName), [y0, y1] = span(yName);
    const px = (x) => edge.left + (x - x0) / (x1 - x0) * (width - edge.left - edge.right);
    const py = (y) => height - edge.bottom - (y - y0) / (y1 - y0) * (height - edge.top - edge.bottom);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", tabindex: "0", role: "application", "aria-roledescription": "scatter plot",
      "aria-label": `${shown.length} runs: ${label("y")} over ${label("x")}. Arrow keys go from run to run, Enter opens it.` }, box);
    for (const tick of ticks(y0, y1, 6)) {
      make("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: py(tick), y2: py(tick) }, svg);
      make("text", { class: "tick", x: edge.left - 8, y: py(tick) + 4, "text-anchor": "end" }, svg, written(yName, tick, unitOf(yName)));
    }
    for (const tick of ticks(x0, x1, xName === "started" ? 2 : width < 500 ? 4 : 7)) {
      make("line", { class: "grid", x1: px(tick), x2: px(tick), y1: height - edge.bottom, y2: height - edge.bottom + 4 }, svg);
      make("text", { class: "tick", x: px(tick), y: height - edge.bottom + 18, "text-anchor": "middle" }, svg, written(xName, tick, unitOf(xName)));
    }
    make("line", { class: "axis", x1: edge.left, x2: width - edge.right, y1: height - edge.bottom, y2: height - edge.bottom }, svg);
    make("text", { class: "name", x: 2, y: 14 }, svg, label("y"));
    make("text", { class: "name", x: width - edge.right, y: height - 8, "text-anchor": "end" }, svg, label("x") + " \u2192");
    const by = chosen("colour"), counts = new Map();
    for (const p of shown) counts.set(p.said[by], (counts.get(p.said[by]) || 0) + 1);
    const order = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
    const key = (p) => Math.min(order.indexOf(p.said[by]), KEYS - 1);
    dots = shown.map((p, i) => {
      const dot = make("circle", { class: "dot k" + key(p), cx: px(p.figures[xName]).toFixed(1), cy: py(p.figures[yName]).toFixed(1), r: shown.length > 400 ? 3.5 : 5.5 }, svg);
      dot.addEventListener("pointerenter", () => pick(i));
      dot.addEventListener("click", () => pick(i));
      return dot;
    });
    if (shown.length <= 15) named(svg, width);
    ring = make("circle", { class: "ring", r: 9, visibility: "hidden" }, svg);
    const keys = html("ul", undefined, box, "keys");
    order.slice(0, KEYS).forEach((name, i) => {
      const item = html("li", undefined, keys);
      html("span", undefined, item, "key k" + i);
      item.append(i === KEYS - 1 && order.length > KEYS ? `${order.length - KEYS + 1} others` : name || "none");
    });
    svg.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
      if (event.key in moves) pick(Math.max(0, Math.min(shown.length - 1, at + moves[event.key])));
      else if (event.key === "Home") pick(0);
      else if (event.key === "End") pick(shown.length - 1);
      else if (event.key === "Enter" && at >= 0) location.href = shown[at].url;
      else return;
      event.preventDefault();
    });
    svg.addEventListener("focus", () => { if (at < 0) pick(0); });
  }

  // Names beside few points, where they cover no other name.
  function named(svg, width) {
    const placed = [];
    shown.forEach((p, i) => {
      const x = Number(dots[i].getAttribute("cx")), y = Number(dots[i].getAttribute("cy")) + 4, right = x < width * 0.75;
      const name = p.name.length > 24 ? p.name.slice(0, 23) + "\u2026" : p.name, long = 6.5 * name.length;
      const left = right ? x + 10 : x - 10 - long;
      if (placed.some((q) => Math.abs(q.y - y) < 13 && left < q.end && q.left < left + long)) return;
      placed.push({ left, end: left + long, y });
      make("text", { class: "called", x: right ? x + 10 : x - 10, y, "text-anchor": right ? "start" : "end" }, svg, name);
    });
  }

  async function pick(i) {
    if (i === at) return;
    at = i;
    const p = shown[i], now = ++asked;
    ring.setAttribute("cx", dots[i].getAttribute("cx"));
    ring.setAttribute("cy", dots[i].getAttribute("cy"));
    ring.setAttribute("visibility", "visible");
    picked.replaceChildren();
    const about = html("div", undefined, picked);
    about.setAttribute("role", "status");
    const head = html("h2", undefined, about), link = html("a", undefined, head);
    link.href = p.url;
    html("bdi", p.name, link);
    const list = html("dl", undefined, about);
    for (const [name, value] of Object.entries(p.said)) {
      if (!value) continue;
      html("dt", name, list);
      html("dd", value, list);
    }
    await new Promise((go) => setTimeout(go, 120));
    if (now !== asked) return;
    try {
      const answer = await fetch(p.recipe);
      const text = await answer.text();
      if (now !== asked) return;
      const recipe = html("pre", answer.ok ? text : "the recipe cannot be read", picked);
      recipe.tabIndex = 0;
      recipe.setAttribute("aria-label", "recipe");
    } catch (error) { /* the board has ended */ }
  }

  async function begin() {
    try {
      told = await (await fetch(form.dataset.scatter)).json();
    } catch (error) {
      html("p", "The runs cannot be had: the board has ended.", box, "none");
      return;
    }
    told.groups.forEach((name, i) => {
      const option = html("option", name, form.elements.group);
      option.value = i;
    });
    if (told.groups.length) form.elements.group.value = "0";
    form.addEventListener("change", draw);
    form.addEventListener("submit", (event) => event.preventDefault());
    let width = box.clientWidth;
    new ResizeObserver(() => { if (Math.abs(box.clientWidth - width) > 20) { width = box.clientWidth; draw(); } }).observe(box);
    draw();
  }
  begin();
})();
