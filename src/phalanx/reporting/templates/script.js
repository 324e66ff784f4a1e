"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const clock = (s) => {
    if (s < 1200) return s.toFixed(1) + " s";
    const t = Math.round(s), two = (n) => String(n).padStart(2, "0");
    const h = Math.floor(t / 3600), m = Math.floor(t / 60) % 60;
    return h ? `${h}:${two(m)}:${two(t % 60)}` : `${m}:${two(t % 60)}`;
  };
  document.documentElement.classList.add("scripted");

  // Figures under the pointer.
  for (const chart of all("svg.chart")) {
    const times = chart.dataset.t.split(" ").map(Number);
    const values = chart.dataset.v.split(" ");
    const [left, right, end] = chart.dataset.x.split(" ").map(Number);
    const cross = chart.querySelector(".cross");
    const readout = chart.closest("figure").querySelector(".readout");
    const leave = () => { cross.classList.remove("seen"); readout.textContent = ""; };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const x = (event.clientX - box.left) * chart.viewBox.baseVal.width / box.width;
      const time = (x - left) / (right - left) * end;
      if (!times.length || time < 0 || time > end) return leave();
      let at = times.findIndex((t) => t >= time);
      if (at < 0) at = times.length - 1;
      if (at > 0 && time - times[at - 1] < times[at] - time) at -= 1;
      const px = left + times[at] / end * (right - left);
      cross.setAttribute("x1", px);
      cross.setAttribute("x2", px);
      cross.classList.add("seen");
      const [legitimate, malicious, wanted] = values[at].split(",");
      readout.textContent = `${clock(times[at])}: legitimate ${legitimate}, malicious ${malicious}, wanted ${wanted} MB/s`;
    });
    chart.addEventListener("pointerleave", leave);
  }

  // A marker and its line in the legend light up together.
  const pairs = all("#traffic .markers li, #traffic svg .mark");
  for (const part of pairs) {
    const light = (on) => pairs.filter((other) => other.dataset.n === part.dataset.n)
      .forEach((other) => other.classList.toggle("lit", on));
    part.addEventListener("pointerenter", () => light(true));
    part.addEventListener("pointerleave", () => light(false));
  }

  // The map at one time.
  const atlas = document.querySelector(".atlas");
  if (atlas) {
    const frames = atlas.dataset.frames ? atlas.dataset.frames.split(" ").map(Number) : [];
    const slider = atlas.querySelector("input");
    const output = atlas.querySelector("output");
    const whole = atlas.querySelector(".whole");
    const play = atlas.querySelector(".play");
    const placed = all("#map [data-on]").map((node) => [node, node.dataset.on.split(" ").map((span) => {
      const [from, to] = span.split(":");
      return [Number(from), to === "" ? Infinity : Number(to)];
    })]);
    const lines = all("#map [data-steps]").map((node) => [node, node.textContent,
      node.dataset.steps.split(" ").map((step) => step.split(":").map(Number))]);
    const links = all("#map [data-load]").map((node) => [node, node.getAttribute("class"),
      node.dataset.load.split(" ").map(Number)]);
    const show = (time) => {
      const everything = time === null;
      whole.setAttribute("aria-pressed", String(everything));
      output.textContent = everything ? "whole run" : clock(time);
      for (const [node, spans] of placed) {
        node.classList.toggle("off", !everything && !spans.some(([a, b]) => a <= time && time < b));
      }
      for (const [node, words, steps] of lines) {
        const count = steps.reduce((last, [at, n]) => (at <= time ? n : last), 0);
        node.textContent = everything ? words : `${count} ${node.dataset.word}${count === 1 ? "" : "s"}`;
        node.classList.toggle("off", !everything && count === 0);
      }
      const frame = Math.max(0, frames.findLastIndex((at) => at <= time));
      for (const [node, usual, loads] of links) {
        const load = loads[frame] || 0;
        node.setAttribute("class", everything ? usual : `link load${load > 0 ? Math.min(4, Math.floor(load / 20)) : 0}`);
      }
    };
    let timer = 0;
    const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
    slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
    whole.addEventListener("click", () => { stop(); show(null); });
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(slider.value) >= Number(slider.max)) slider.value = 0;
      play.textContent = "Pause";
      timer = setInterval(() => {
        slider.value = Number(slider.value) + Number(slider.max) / 300;
        show(Number(slider.value));
        if (Number(slider.value) >= Number(slider.max)) stop();
      }, 100);
    });
  }

  // Filters keep what contains every word.
  for (const field of all("[data-filter]")) {
    const parts = all(field.dataset.filter);
    const output = field.closest(".filter").querySelector("output");
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const part of parts) {
        const words_of = part.textContent.toLowerCase();
        const hit = words.every((word) => words_of.includes(word));
        part.hidden = !hit && part.tagName !== "SUMMARY";
        part.classList.toggle("missed", !hit);
        shown += hit;
      }
      output.textContent = words.length ? `${shown} of ${parts.length}` : "";
    });
  }

  const branches = all("#causes .tree details");
  for (const button of all("[data-all]")) {
    button.addEventListener("click", () => branches.forEach((part) => { part.open = button.dataset.all === "open"; }));
  }
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    if (target) target.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", reveal);
  if (location.hash.startsWith("#e-")) reveal();

  let closed = [];
  addEventListener("beforeprint", () => { closed = all("details:not([open])"); closed.forEach((part) => { part.open = true; }); });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
})();
