// Many images at once: only those in sight are in the page. Selection by mouse, touch and keyboard.

import { html, nothing } from "./lit-html/lit-html.js";
import { repeat } from "./lit-html/directives/repeat.js";
import { app, fail, go, imageHash, pictureUrl, queueHash, say, show, update } from "./state.js";
import { stateOf } from "./words.js";

const GAP = 8;
const CAPTION = 40, SHORT_CAPTION = 24;
const MOST_SELECTED = 5000; // as the server allows

const box = { element: null, width: 0, height: 0, top: 0 };
let anchor = null; // where a selection by Shift begins
let band = null; // the rectangle that the mouse draws

// Whether all images of the queue have one label, so that it need not stand below each.
function single() {
  return app.route.label !== undefined;
}

function layout() {
  const wanted = box.width < 560 ? 104 : 148;
  const columns = Math.max(Math.floor((box.width - GAP) / (wanted + GAP)), 1);
  const side = (box.width - GAP * (columns + 1)) / columns;
  const tall = side + (single() ? SHORT_CAPTION : CAPTION);
  return { columns, side, tall, step: tall + GAP };
}

export function gridView() {
  const { queue } = app;
  const { columns, side, tall, step } = layout();
  const rows = Math.ceil((queue.total ?? 0) / columns);
  const first = Math.max(Math.floor(box.top / step) - 1, 0);
  const last = Math.min(Math.ceil((box.top + box.height) / step) + 1, rows);
  const places = [];
  for (let place = first * columns; place < Math.min(last * columns, queue.total ?? 0); place += 1) places.push(place);
  if (box.width) load(queue, places);
  return html`
    <div id="grid" class="grid" role="listbox" aria-multiselectable="true" tabindex="0"
      aria-label="Images of this queue" aria-activedescendant=${queue.total ? `cell-${app.place}` : nothing}
      @scroll=${onScroll} @keydown=${onKey} @pointerdown=${onDown} @click=${onClick} @dblclick=${onDouble}>
      <div class="grid-all" role="presentation" .style=${`height:${rows * step + GAP}px`}>
        ${repeat(places, (place) => place, (place) => cell(place, columns, side, tall))}
        ${band?.drawn ? html`<div class="band" .style=${bandStyle()}></div>` : nothing}
      </div>
    </div>`;
}

function cell(place, columns, side, tall) {
  const item = app.queue.peek(place);
  const left = GAP + (place % columns) * (side + GAP);
  const top = GAP + Math.floor(place / columns) * (tall + GAP);
  const style = `transform:translate(${left}px,${top}px);width:${side}px;height:${tall}px`;
  const classes = ["cell", place === app.place ? "active" : "", app.selection.has(place) ? "selected" : ""];
  if (!item) return html`<div class="cell waiting" .style=${style} role="presentation"></div>`;
  const state = stateOf(item);
  const names = item.labels.map((l) => l.name).join(" / ");
  const other = item.choices[0]?.name;
  return html`
    <div id=${`cell-${place}`} class=${[...classes, state.kind].join(" ")} .style=${style} data-place=${place}
      role="option" aria-selected=${app.selection.has(place)} aria-posinset=${place + 1} aria-setsize=${app.queue.total}
      aria-label=${`${names}; ${state.text || `perhaps ${other}`}`}>
      <img src=${pictureUrl(item.id, side > 170 ? 320 : 160)} alt="" draggable="false">
      ${state.kind === "open" ? nothing : html`<span class="badge" aria-hidden="true">${state.sign}</span>`}
      <span class="caption">${single() ? nothing : html`<b>${names}</b>`}<small>${state.text || (other ? `perhaps ${other}` : "")}</small></span>
    </div>`;
}

function load(queue, places) {
  if (!places.length) return;
  const missing = places.filter((place) => !queue.peek(place));
  const wanted = new Set(missing.map((place) => Math.floor(place / 50) * 50));
  for (const place of wanted) queue.load(place).then(update, fail);
}

// ---------------------------------------------------------------------------------- measuring

const observer = new ResizeObserver(() => measure());

// After each drawing: follows the element that is there now.
export function settle() {
  const element = document.getElementById("grid");
  if (element === box.element) return;
  observer.disconnect();
  box.element = element;
  box.top = 0;
  if (!element) return;
  observer.observe(element);
  measure();
  reveal();
  element.focus({ preventScroll: true });
}

function measure() {
  if (!box.element) return;
  const { clientWidth, clientHeight } = box.element;
  if (clientWidth === box.width && clientHeight === box.height) return;
  box.width = clientWidth;
  box.height = clientHeight;
  update();
}

function onScroll(event) {
  box.top = event.currentTarget.scrollTop;
  update();
}

// Scrolls so that the active entry is in sight.
function reveal() {
  const { columns, step } = layout();
  const top = Math.floor(app.place / columns) * step;
  const element = box.element;
  if (!element) return;
  if (top < element.scrollTop) element.scrollTop = top;
  else if (top + step > element.scrollTop + box.height) element.scrollTop = top + step + GAP - box.height;
}

// ---------------------------------------------------------------------------------- keyboard

function onKey(event) {
  const { columns, step } = layout();
  const total = app.queue.total ?? 0;
  const page = Math.max(Math.floor(box.height / step), 1) * columns;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page };
  let target = null;
  if (event.key in steps) target = app.place + steps[event.key];
  else if (event.key === "Home") target = 0;
  else if (event.key === "End") target = total - 1;
  if (target !== null) {
    target = Math.min(Math.max(target, 0), total - 1);
    if (event.shiftKey) extend(target);
    else anchor = target;
    activate(target);
  } else if (event.key === " ") {
    toggle(app.place);
  } else if (event.key === "Enter") {
    open(app.place);
  } else if (event.key === "Escape" && app.selection.size) {
    app.selection.clear();
    update();
  } else if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey)) {
    select(0, total - 1);
  } else {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
}

function activate(place) {
  show(place).then(() => { reveal(); update(); }, fail);
}

function toggle(place) {
  if (!app.selection.delete(place)) app.selection.add(place);
  anchor = place;
  app.place = place;
  update();
}

function extend(place) {
  anchor ??= app.place;
  app.selection.clear();
  select(Math.min(anchor, place), Math.max(anchor, place));
}

function select(first, last) {
  const end = Math.min(last, first + MOST_SELECTED - 1);
  for (let place = first; place <= end; place += 1) app.selection.add(place);
  if (end < last) say(`Only ${MOST_SELECTED.toLocaleString("en")} images can be judged at once.`, "bad");
  update();
}

function open(place) {
  const item = app.queue.peek(place);
  if (!item) return;
  if (app.group) return go(imageHash(item.id));
  app.grid = false;
  app.selection.clear();
  go(queueHash(app.queue.name, place));
  show(place).catch(fail);
}

// ---------------------------------------------------------------------------------- mouse and touch

function placeOf(event) {
  const found = event.target.closest?.("[data-place]");
  return found ? Number(found.dataset.place) : null;
}

function onClick(event) {
  const place = placeOf(event);
  if (band?.drawn || place === null) return;
  if (event.shiftKey) extend(place);
  else if (event.ctrlKey || event.metaKey || event.pointerType === "touch") toggle(place);
  else {
    const only = app.selection.size === 1 && app.selection.has(place);
    app.selection.clear();
    if (!only) app.selection.add(place);
    anchor = place;
  }
  activate(place);
}

function onDouble(event) {
  const place = placeOf(event);
  if (place !== null) open(place);
}

function onDown(event) {
  if (event.pointerType !== "mouse" || event.button !== 0) return;
  const frame = box.element.getBoundingClientRect();
  if (event.clientX > frame.left + box.element.clientWidth) return; // the scroll bar
  const point = (e) => ({ x: e.clientX - frame.left, y: e.clientY - frame.top + box.element.scrollTop });
  const kept = event.shiftKey || event.ctrlKey || event.metaKey ? new Set(app.selection) : new Set();
  band = { from: point(event), to: point(event), drawn: false };
  const move = (e) => {
    band.to = point(e);
    const far = Math.hypot(band.to.x - band.from.x, band.to.y - band.from.y) > 8;
    if (!band.drawn && !far) return;
    band.drawn = true;
    app.selection = new Set([...kept, ...inBand()]);
    update();
  };
  const up = () => {
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", up);
    // The click that follows is part of the drawing.
    setTimeout(() => { band = null; update(); });
  };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", up);
}

function edges() {
  const { from, to } = band;
  return { left: Math.min(from.x, to.x), right: Math.max(from.x, to.x), top: Math.min(from.y, to.y), bottom: Math.max(from.y, to.y) };
}

function inBand() {
  const { columns, side, step } = layout();
  const { left, right, top, bottom } = edges();
  const found = [];
  const column = (x) => (x - GAP) / (side + GAP);
  const firstColumn = Math.max(Math.floor(column(left)), 0);
  const lastColumn = Math.min(Math.floor(column(right)), columns - 1);
  const firstRow = Math.max(Math.floor((top - GAP) / step), 0);
  const lastRow = Math.floor((bottom - GAP) / step);
  for (let row = firstRow; row <= lastRow; row += 1) {
    for (let at = firstColumn; at <= lastColumn; at += 1) {
      const place = row * columns + at;
      if (place < app.queue.total && found.length < MOST_SELECTED) found.push(place);
    }
  }
  return found;
}

function bandStyle() {
  const { left, right, top, bottom } = edges();
  return `left:${left}px;top:${top}px;width:${right - left}px;height:${bottom - top}px`;
}
