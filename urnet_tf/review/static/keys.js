// The keyboard. Single letters work wherever nothing is typed into.

import { choices, openFull } from "./focus.js";
import { openSearch } from "./search.js";
import { app, go, judge, move, nextGroup, nextOpen, undo, update } from "./state.js";

export function toggleGrid() {
  if (!app.queue || app.group) return;
  app.grid = !app.grid;
  app.selection.clear();
  if (app.finished) app.finished = false;
  move(0);
  update();
}

export function openDialog(id) {
  const dialog = document.getElementById(id);
  if (!dialog.open) dialog.showModal();
}

const ACTIONS = {
  r: () => judge("given"),
  x: () => judge("none"),
  u: () => judge("unsure"),
  w: openSearch,
  "/": openSearch,
  z: undo,
  f: openFull,
};
const ANYWHERE = {
  g: toggleGrid,
  n: () => app.queue && nextOpen(),
  p: () => openDialog("panel"),
  h: () => go("#/"),
  "?": () => openDialog("keys"),
  j: () => app.group && nextGroup(1),
  k: () => app.group && nextGroup(-1),
};

function isTyping(target) {
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable]") !== null;
}

export function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || app.blocked) return;
  const dialog = document.querySelector("dialog[open]");
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (dialog) {
    if (dialog.id === "full" && key === "f") dialog.querySelector("img").classList.toggle("actual");
    if (dialog.id === "panel" && key === "p") dialog.close();
    return;
  }
  if (isTyping(event.target)) return;
  const shown = app.item && !app.finished;
  let action = ANYWHERE[key];
  if (shown && key in ACTIONS) action = ACTIONS[key];
  else if (key === "z") action = undo;
  else if (shown && /^[1-9]$/.test(key)) {
    const choice = choices()[Number(key) - 1];
    action = choice && (() => judge(choice.label, choice.name));
  } else if (app.queue && !app.grid && (key === "ArrowRight" || key === "ArrowLeft")) {
    if (event.target instanceof Element && event.target.closest(".about, .actual")) return;
    action = () => move(key === "ArrowRight" ? 1 : -1);
  }
  if (!action) return;
  event.preventDefault();
  // A key that is held down walks, but judges one image only.
  if (event.repeat && !key.startsWith("Arrow")) return;
  action();
}
