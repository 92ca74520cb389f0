// Where a review begins: the queues, and the classes.

import { html, nothing } from "./lit-html/lit-html.js";
import { get } from "./api.js";
import { app, fail, pictureUrl, update } from "./state.js";
import { count, percent } from "./words.js";

const FIRST = "valuable";
const samples = new Map(); // a card → some of its pictures, or words

// The first pictures of each queue, one after the other: an order of all images takes a moment.
async function loadSamples() {
  for (const name of [...app.start.queues.map((queue) => queue.name), "groups", "classes"]) {
    if (samples.has(name) || name === "judged") continue;
    samples.set(name, null);
    try {
      if (name === "classes") {
        const found = await get("classes", { limit: 4 });
        samples.set(name, { text: found.items.map((entry) => entry.name).join(", ") });
      } else {
        const queue = name === "groups" ? (await get("groups", { place: 0 })).groups[0]?.queue : name;
        if (queue) samples.set(name, { items: (await get("items", { queue, limit: 4 })).items });
      }
    } catch (error) {
      samples.delete(name);
      return fail(error);
    }
    update();
  }
}

export function homeView() {
  const { start, progress } = app;
  if (!samples.size) loadSamples();
  return html`
    <div class="home">
      <h1>What do you want to look at?</h1>
      <p class="lead">${count(start.images, "image")} of ${count(start.classes, "class", "classes")} in <b>${start.run}</b>${
        progress ? html`; about <b class="doubt">${percent(progress.wrong.share)}</b> of the labels look wrong (${percent(progress.wrong.low)} – ${percent(progress.wrong.high)}).` : "."}</p>
      <ul class="cards">
        ${start.queues.filter((queue) => queue.name !== "judged").map((queue) => card(`#/queue/${queue.name}`, queue.name, queue.title, queue.note))}
        ${card("#/groups/0", "groups", "Groups of look-alikes", "Thirty that look alike and have one label: keep, drop or rename them with one key.")}
        ${card("#/classes", "classes", "Class by class", "Those with most wrong labels first, or the one that you search.")}
        ${progress?.judged ? card("#/queue/judged", "judged", "What you judged", "The latest first, to look again.") : nothing}
      </ul>
    </div>`;
}

function card(href, name, title, note) {
  const state = app.progress?.queues[name];
  const empty = state?.total === 0;
  const sample = samples.get(name);
  return html`
    <li><a class=${["card", empty ? "empty" : "", name === FIRST ? "first" : ""].join(" ")} href=${empty ? nothing : href} aria-disabled=${empty ? "true" : nothing}>
      <b>${title}</b><span>${empty ? "There are none." : note}</span>
      ${state?.total ? html`<small>${state.done.toLocaleString("en")} of ${state.total.toLocaleString("en")} judged</small>` : nothing}
      ${sample?.text ? html`<em>${sample.text} …</em>` : nothing}
      ${sample?.items?.length ? html`<div class="samples">${sample.items.map((item) => html`<img src=${pictureUrl(item.id, 160)} alt="" loading="lazy">`)}</div>` : nothing}
    </a></li>`;
}

const list = { search: "", items: [], total: null, ticket: 0, rows: -1 };

async function load(more = false) {
  const ticket = ++list.ticket;
  list.rows = app.progress?.rows ?? 0;
  try {
    const found = await get("classes", { search: list.search, offset: more ? list.items.length : 0, limit: 60 });
    if (ticket !== list.ticket) return;
    list.items = more ? [...list.items, ...found.items] : found.items;
    list.total = found.total;
    update();
  } catch (error) {
    fail(error);
  }
}

export function classesView() {
  if (list.total === null || list.rows !== (app.progress?.rows ?? 0)) load();
  const onInput = (event) => { list.search = event.target.value; load(); };
  return html`
    <div class="home">
      <h1>Class by class</h1>
      <label class="hidden" for="class-search">Search classes</label>
      <input id="class-search" type="search" placeholder="Search classes" autocomplete="off" .value=${list.search} @input=${onInput}>
      <ul class="classes">
        ${list.items.map((entry) => html`
          <li><a href=${`#/class/:${entry.label}`}>
            <b>${entry.name}</b>
            <span class="meter" aria-hidden="true"><i class="low" .style=${`width:${100 * entry.wrong}%`}></i></span>
            <small>${percent(entry.wrong)} of ${count(entry.images, "image")} look wrong${entry.judged ? `; ${entry.judged} judged` : ""}</small></a></li>`)}
      </ul>
      ${list.total === 0 ? html`<p class="soft">No class is called so.</p>` : nothing}
      ${list.items.length < (list.total ?? 0) ? html`<button class="plain" @click=${() => load(true)}>More of ${count(list.total, "class", "classes")}</button>` : nothing}
    </div>`;
}
