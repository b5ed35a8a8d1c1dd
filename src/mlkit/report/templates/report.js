"use strict";
// Three parts: the colour theme, the time line, and a viewer for each image. Pictures are loaded as they come near.

const MOST_ZOOM = 32;
const stored = document.getElementById("sources");
const sources = stored ? JSON.parse(stored.textContent) : {};

// ---- theme ---------------------------------------------------------------------------------------------------

const THEMES = { auto: ["Auto", "as the system has them"], light: ["Light", "light"], dark: ["Dark", "dark"] };
const themeButton = document.getElementById("theme");

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  themeButton.textContent = THEMES[name][0];
  themeButton.setAttribute("aria-label", `Colours: ${THEMES[name][1]}`);
  themeButton.dataset.now = name;
  try { localStorage.setItem("mlkit-theme", name); } catch { /* a page opened as a file may keep nothing */ }
}

function keptTheme() {
  try { return localStorage.getItem("mlkit-theme"); } catch { return null; }
}

const names = Object.keys(THEMES);
setTheme(names.includes(keptTheme()) ? keptTheme() : "auto");
themeButton.addEventListener("click", () => setTheme(names[(names.indexOf(themeButton.dataset.now) + 1) % names.length]));

// ---- pictures ------------------------------------------------------------------------------------------------

function load(image) {
  const source = sources[image.dataset.key];
  if (source && image.getAttribute("src") !== source) image.src = source;
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    entry.target.dataset.near = "yes";
    entry.target.querySelectorAll("img[data-key]").forEach(load);
  }
}, { rootMargin: "800px" });

// ---- viewer --------------------------------------------------------------------------------------------------

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

class Viewer {
  constructor(root) {
    this.root = root;
    this.panes = [...root.querySelectorAll("[data-pane]")];
    this.stage = root.querySelector(".stage");
    this.divider = root.querySelector(".divider");
    this.output = root.querySelector("[data-scale]");
    this.scale = 1;
    this.x = 0; // place of the picture's upper left corner in the pane, in panes: 0 to 1 - scale
    this.y = 0;
    this.at = 50;
    this.atBefore = 50; // before the last click
    this.pressed = -1000;
    this.pointers = new Map();
    for (const image of root.querySelectorAll("img")) image.style.aspectRatio = `${image.getAttribute("width")} / ${image.getAttribute("height")}`;
    const first = this.stage.querySelector("img");
    this.stage.parentElement.style.setProperty("--ratio", first.getAttribute("width") / first.getAttribute("height"));
    for (const select of root.querySelectorAll("select")) select.addEventListener("change", () => this.show(select.dataset.side, select.value));
    for (const button of root.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => this.press(button.dataset.zoom));
    for (const pane of this.panes) this.listen(pane);
    this.divider.addEventListener("keydown", (event) => this.slideByKey(event));
    this.divider.addEventListener("pointerdown", (event) => this.startSlide(event));
    this.draw();
  }

  // -- divider

  slide(percent) {
    this.at = clamp(percent, 0, 100);
    this.stage.style.setProperty("--at", `${this.at}%`);
    this.divider.setAttribute("aria-valuenow", Math.round(this.at));
    this.divider.setAttribute("aria-valuetext", `${Math.round(this.at)} % left`);
  }

  slideTo(event) {
    const box = this.stage.getBoundingClientRect();
    this.slide(100 * (event.clientX - box.left) / box.width);
  }

  startSlide(event) {
    if (event.button > 0) return;
    event.preventDefault();
    this.divider.focus({ preventScroll: true });
    this.divider.setPointerCapture(event.pointerId);
    const move = (moved) => this.slideTo(moved);
    const end = () => {
      this.divider.removeEventListener("pointermove", move);
      this.divider.removeEventListener("pointerup", end);
      this.divider.removeEventListener("pointercancel", end);
    };
    this.divider.addEventListener("pointermove", move);
    this.divider.addEventListener("pointerup", end);
    this.divider.addEventListener("pointercancel", end);
  }

  slideByKey(event) {
    const step = event.shiftKey ? 10 : 2;
    const to = {
      ArrowLeft: this.at - step, ArrowDown: this.at - step, ArrowRight: this.at + step, ArrowUp: this.at + step,
      PageDown: this.at - 10, PageUp: this.at + 10, Home: 0, End: 100,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.slide(to);
  }

  // -- zoom: every pane of the image shows the same part

  zoom(factor, x = 0.5, y = 0.5) {
    const scale = clamp(this.scale * factor, 1, MOST_ZOOM);
    this.x = x - (x - this.x) * scale / this.scale;
    this.y = y - (y - this.y) * scale / this.scale;
    this.scale = scale;
    this.draw();
  }

  move(x, y) {
    this.x += x;
    this.y += y;
    this.draw();
  }

  fit() {
    this.scale = 1;
    this.draw();
  }

  press(what) {
    if (what === "fit") this.fit();
    else this.zoom(what === "in" ? 1.5 : 1 / 1.5);
  }

  draw() {
    this.x = clamp(this.x, 1 - this.scale, 0);
    this.y = clamp(this.y, 1 - this.scale, 0);
    this.output.textContent = `${Number(this.scale.toPrecision(2))}\u00d7`;
    for (const pane of this.panes) {
      pane.classList.toggle("zoomed", this.scale > 1);
      for (const image of pane.querySelectorAll("img")) {
        image.style.transform = `translate(${100 * this.x}%, ${100 * this.y}%) scale(${this.scale})`;
        const pixel = pane.clientWidth * this.scale / (Number(image.getAttribute("width")) || 1);
        image.parentElement.classList.toggle("pixels", pixel >= 2);
      }
    }
  }

  place(event, pane) {
    const box = pane.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  listen(pane) {
    pane.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
      event.preventDefault();
      this.zoom(Math.exp(-clamp(event.deltaY, -60, 60) * 0.01), ...this.place(event, pane));
    }, { passive: false });
    pane.addEventListener("dblclick", (event) => {
      this.slide(this.atBefore); // the first click of the two has moved it
      if (this.scale > 1) this.fit();
      else this.zoom(4, ...this.place(event, pane));
    });
    pane.addEventListener("pointerdown", (event) => {
      if (event.timeStamp - this.pressed > 500) this.atBefore = this.at;
      this.pressed = event.timeStamp;
      if (event.button > 0 || event.target.closest(".divider")) return;
      this.pointers.set(event.pointerId, this.place(event, pane));
      if (this.scale > 1 || this.pointers.size > 1 || pane === this.stage) pane.setPointerCapture(event.pointerId);
      if (this.scale === 1 && this.pointers.size === 1 && pane === this.stage && event.pointerType === "mouse") this.slideTo(event);
    });
    pane.addEventListener("pointermove", (event) => this.drag(event, pane));
    for (const end of ["pointerup", "pointercancel"]) pane.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    pane.addEventListener("keydown", (event) => this.panByKey(event));
  }

  drag(event, pane) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.place(event, pane);
    if (this.pointers.size === 2) { // pinch: the other finger stays where it is
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const apart = (from) => Math.hypot(from[0] - other[0], from[1] - other[1]);
      if (apart(before) > 0.01) this.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else if (this.scale > 1) {
      this.move(now[0] - before[0], now[1] - before[1]);
    } else if (pane === this.stage) {
      this.slideTo(event);
    }
    this.pointers.set(event.pointerId, now);
  }

  panByKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    if (event.key === "+" || event.key === "=") this.zoom(1.5);
    else if (event.key === "-") this.zoom(1 / 1.5);
    else if (event.key === "0") this.fit();
    else if (steps[event.key] && this.scale > 1) this.move(...steps[event.key]);
    else return;
    event.preventDefault();
  }

  // -- which pictures

  show(side, key) {
    const select = this.root.querySelector(`select[data-side="${side}"]`);
    select.value = key;
    const title = select.selectedOptions[0].textContent;
    const image = this.root.querySelector(`img[data-show="${side}"]`);
    image.alt = `${title}: ${image.alt.split(": ").slice(1).join(": ")}`;
    image.dataset.key = key;
    if (this.root.dataset.near) load(image);
    this.root.querySelector(`[data-tag="${side}"]`).textContent = title;
  }
}

const viewers = [...document.querySelectorAll("[data-viewer]")].map((root) => {
  const viewer = new Viewer(root);
  near.observe(root);
  return viewer;
});
addEventListener("resize", () => viewers.forEach((viewer) => viewer.draw()));

// ---- time line -----------------------------------------------------------------------------------------------

const time = document.getElementById("time");
if (time) {
  const steps = time.dataset.steps.split(",").map(Number);
  const play = document.getElementById("play");
  let timer = 0;

  const go = () => {
    const place = Number(time.value);
    const told = `step ${steps[place].toLocaleString("en")}`;
    document.getElementById("time-text").textContent = told;
    time.setAttribute("aria-valuetext", told);
    for (const viewer of viewers) {
      const option = viewer.root.querySelector(`select[data-side="right"] option[data-model="${place}"]`);
      if (option) viewer.show("right", option.value);
      for (const figure of viewer.root.querySelectorAll(".errors figure")) figure.hidden = figure.dataset.model !== String(place);
      viewer.draw();
    }
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  };
  time.addEventListener("input", () => { stop(); go(); });
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    play.textContent = "Stop";
    timer = setInterval(() => {
      time.value = (Number(time.value) + 1) % steps.length;
      go();
    }, 900);
  });
  go();
}
