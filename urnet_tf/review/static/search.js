// The dialog in which another class is found by typing, and the one that names the keys.

import { html, nothing, render } from "./lit-html/lit-html.js";
import { get } from "./api.js";
import { app, fail, judge } from "./state.js";
import { percent } from "./words.js";

const search = { text: "", found: [], active: 0, ticket: 0 };

function dialog() {
  return document.getElementById("search");
}

export async function openSearch() {
  Object.assign(search, { text: "", found: [], active: 0 });
  draw();
  dialog().showModal();
  dialog().querySelector("input").value = "";
  dialog().querySelector("input").focus();
  await look();
}

async function look() {
  const ticket = ++search.ticket;
  const wanted = search.text.trim();
  try {
    const likely = app.item?.choices ?? [];
    let found = likely;
    if (wanted) {
      const answer = await get("classes", { search: wanted, limit: 20 });
      found = answer.items.map((entry) => ({ label: entry.label, name: entry.name, prob: likely.find((c) => c.label === entry.label)?.prob }));
    } else {
      const answer = await get("classes", { limit: 30 });
      const known = new Set(likely.map((choice) => choice.label));
      found = [...likely, ...answer.items.filter((entry) => !known.has(entry.label)).map(({ label, name }) => ({ label, name }))];
    }
    if (ticket !== search.ticket) return;
    search.found = found;
    search.active = 0;
    draw();
  } catch (error) {
    dialog().close();
    fail(error);
  }
}

function draw() {
  const { found, active } = search;
  render(html`
    <label for="search-text">Another class</label>
    <input id="search-text" type="text" role="combobox" autocomplete="off" spellcheck="false" aria-expanded="true"
      aria-controls="search-list" aria-activedescendant=${found.length ? `search-${active}` : nothing}
      placeholder="Type a part of its name" @input=${onInput} @keydown=${onKey}>
    <ul id="search-list" role="listbox" aria-label="Classes">
      ${found.map((choice, index) => html`
        <li id=${`search-${index}`} role="option" aria-selected=${index === active} @click=${() => choose(choice)}>
          <span>${choice.name}</span>${choice.prob ? html`<small>${percent(choice.prob)}</small>` : nothing}
        </li>`)}
    </ul>
    ${found.length ? nothing : html`<p class="soft">No class is called so. An image of a class that you do not have is “none of these”.</p>`}
    <div class="row"><button class="plain" @click=${() => { dialog().close(); judge("none"); }}>None of these</button>
      <button class="plain" @click=${() => dialog().close()}>Cancel</button></div>`, dialog());
  dialog().querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
}

function onInput(event) {
  search.text = event.target.value;
  look();
}

function onKey(event) {
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps) {
    search.active = (search.active + steps[event.key] + search.found.length) % Math.max(search.found.length, 1);
    draw();
  } else if (event.key === "Enter" && search.found[search.active]) {
    choose(search.found[search.active]);
  } else {
    return;
  }
  event.preventDefault();
}

function choose(choice) {
  dialog().close();
  judge(choice.label, choice.name);
}

const KEYS = [
  ["R", "The label is right"],
  ["1 … 9", "It is this other class"],
  ["W or /", "It is another class: type its name"],
  ["X", "None of the classes"],
  ["U", "Unsure: nothing follows from it"],
  ["Z", "Undo, as often as you like"],
  ["→ ←", "Next, previous, without judging"],
  ["N", "Next that is not judged"],
  ["F", "The picture at full size"],
  ["G", "Many at once, or one"],
  ["P", "What your judgements tell so far"],
  ["H", "All queues"],
];
const GRID_KEYS = [
  ["← → ↑ ↓", "Move; with Shift: select"],
  ["Space", "Select or not"],
  ["Ctrl A, Esc", "Select all, none"],
  ["Enter", "Open"],
  ["J, K", "Next, previous group"],
];

export function keysView() {
  const table = (rows) => html`<dl class="keys">${rows.map(([key, what]) => html`<dt><kbd>${key}</kbd></dt><dd>${what}</dd>`)}</dl>`;
  return html`
    <h2>Keys</h2>${table(KEYS)}
    <h3>With many at once</h3>${table(GRID_KEYS)}
    <p class="soft">The mouse draws a frame around images; Shift and Ctrl add to it. A key then judges all that are
      selected; in a group of look-alikes without a selection, the whole group.</p>
    <div class="row"><button class="plain" @click=${(e) => e.target.closest("dialog").close()}>Close</button></div>`;
}
