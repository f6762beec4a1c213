"use strict";
// Curves over steps that grow while a run goes on, drawn by uPlot. Without this script the report's own pictures stand.
(function () {
  const NAMES = {
    loss: "training loss", eval_loss: "held-out loss", eval_target: "target", learning_rate: "learning rate",
    grad_norm: "gradient norm", tokens_per_second: "tokens a second",
  };
  const GROUPS = [["loss", "eval_loss"], ["eval_target"], ["learning_rate"], ["grad_norm"], ["tokens_per_second"]];
  const PAUSE = 2000;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = (x) => x === null || x === undefined ? "" : Math.abs(x) >= 1e4 || (x !== 0 && Math.abs(x) < 1e-3) ? x.toExponential(1).replace(".0e", "e") : String(Number(x.toPrecision(4)));

  class Curves {
    constructor(box) {
      this.box = box;
      this.url = box.dataset.curves;
      this.only = box.dataset.only;
      this.mark = "";
      this.plots = [];
      this.data = null;
      new ResizeObserver(() => this.resize()).observe(box);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(true));
      this.ask();
    }
    async ask() {
      if (!this.box.isConnected) return;
      try {
        if (!document.hidden) {
          const answer = await fetch(this.url + "?since=" + encodeURIComponent(this.mark));
          if (answer.ok) this.take(await answer.json());
        }
      } catch (error) { /* the board has ended, or is asked again */ }
      if ("live" in this.box.dataset) setTimeout(() => this.ask(), PAUSE);
    }
    take(told) {
      if (told.state !== "running" && "live" in this.box.dataset) {
        delete this.box.dataset.live;
        document.dispatchEvent(new CustomEvent("board:ended"));
      }
      if (!told.columns) return;
      this.mark = told.mark;
      this.data = told;
      this.draw(false);
      const last = this.box.parentElement.querySelector("[data-last]");
      if (last && told.step.length) last.textContent = this.said(told);
    }
    said(told) {
      const parts = ["Last noted: step " + told.step[told.step.length - 1]];
      for (const key of ["loss", "eval_loss", "eval_target"]) {
        const known = (told.columns[key] || []).filter((v) => v !== null);
        if (known.length) parts.push(this.name(key) + " " + short(known[known.length - 1]));
      }
      return parts.join(", ");
    }
    name(key) { return key === "eval_target" ? this.box.dataset.target || NAMES[key] : NAMES[key]; }
    groups() {
      const wanted = this.only ? [[this.only]] : GROUPS;
      return wanted.map((g) => g.filter((k) => this.data.columns[k])).filter((g) => g.length);
    }
    draw(anew) {
      if (!this.data || !this.data.step.length) return;
      const groups = this.groups(), keys = JSON.stringify(groups);
      if (anew || keys !== this.keys) {
        this.keys = keys;
        this.plots.forEach((p) => p.destroy());
        this.box.replaceChildren();
        this.plots = groups.map((group) => this.plot(group));
      } else {
        this.plots.forEach((p, i) => p.setData(this.rows(groups[i])));
      }
      this.plots.forEach((p, i) => this.label(p, groups[i]));
    }
    rows(group) { return [this.data.step, ...group.map((k) => this.data.columns[k])]; }
    label(plot, group) {
      const last = group.map((k) => {
        const known = this.data.columns[k].filter((v) => v !== null);
        return this.name(k) + ", from " + short(known[0]) + " to " + short(known[known.length - 1]);
      });
      plot.figure.setAttribute("aria-label", last.join("; ") + " over " + this.data.step[this.data.step.length - 1] + " steps");
    }
    plot(group) {
      const figure = document.createElement("figure"), head = document.createElement("figcaption");
      const name = document.createElement("b"), value = document.createElement("span");
      name.textContent = group.map((k) => this.name(k)).join(", ");
      head.append(name, value);
      figure.append(head);
      figure.setAttribute("role", "img");
      this.box.append(figure);
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { stroke: colour("--rule"), width: 1 }, font: "12px system-ui, sans-serif" };
      const stages = this.data.stages;
      const strokes = ["--tuned", "--s1"];
      const made = new uPlot({
        width: this.width(), height: this.only ? 110 : 220,
        legend: { show: false },
        cursor: { y: false, drag: { x: true, y: false } },
        scales: { x: { time: false } },
        axes: [{ ...axis, size: 28, space: 60 }, { ...axis, size: 58, space: this.only ? 22 : 40, values: (u, ticks) => ticks.map(short) }],
        series: [{}, ...group.map((k, i) => ({
          stroke: colour(strokes[i % 2]), width: 1.6, spanGaps: true,
          points: { show: k.startsWith("eval_"), size: 6, fill: colour(strokes[i % 2]) },
        }))],
        hooks: {
          setCursor: [(u) => {
            const at = u.cursor.idx;
            value.textContent = at === null || at === undefined ? "" :
              "step " + u.data[0][at] + ": " + group.map((k, i) => short(u.data[i + 1][at])).filter(Boolean).join(", ");
          }],
          draw: [(u) => {
            const ink = u.ctx;
            ink.save();
            ink.strokeStyle = colour("--faint");
            ink.setLineDash([3, 4]);
            for (const [step] of stages) {
              const x = u.valToPos(step, "x", true);
              ink.beginPath(); ink.moveTo(x, u.bbox.top); ink.lineTo(x, u.bbox.top + u.bbox.height); ink.stroke();
            }
            ink.restore();
          }],
        },
      }, this.rows(group), figure);
      made.figure = figure;
      return made;
    }
    width() {
      const first = this.box.querySelector("figure");
      return Math.max(160, Math.floor((first || this.box).clientWidth));
    }
    resize() { this.plots.forEach((p) => p.setSize({ width: this.width(), height: p.height })); }
  }
  const begin = (root) => root.querySelectorAll("[data-curves]").forEach((box) => {
    if (!box.curves) box.curves = new Curves(box);
  });
  window.boardCurves = begin;
  begin(document);
})();
