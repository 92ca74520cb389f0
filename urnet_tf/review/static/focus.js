// One image, large, with what is known of it, and the buttons that judge.

import { html, nothing } from "./lit-html/lit-html.js";
import { repeat } from "./lit-html/directives/repeat.js";
import { openSearch } from "./search.js";
import { app, fail, imageHash, judge, move, nextGroup, nextOpen, pictureUrl, show, undo, update } from "./state.js";
import { count, percent, stateOf } from "./words.js";

const LEAST = 0.01; // less probable classes get no key, but for the first two

export function stageView() {
  const { item } = app;
  if (app.finished) return finishedView();
  if (!item) return html`<div class="stage"><p class="soft">Nothing here.</p></div>`;
  const state = stateOf(item);
  return html`
    <div class="question">
      ${item.labels.length > 1
        ? html`<h1>One picture, several labels: <b>${item.labels.map((l) => l.name).join(", ")}</b></h1>`
        : html`<h1>Is this <b>${item.labels[0].name}</b>?</h1>`}
      ${state.kind === "open" ? nothing : html`<p class=${`said ${state.kind}`}>${state.sign} ${state.text}${item.who && item.who !== app.start.who ? `, says ${item.who}` : ""}</p>`}
    </div>
    <div class="stage" data-id=${item.id} data-ready=${app.ready}>
      ${repeat([item], (entry) => entry.id, (entry) => html`
        <img class="under" src=${pictureUrl(entry.id, 320)} alt="" @load=${seen} @error=${seen}>
        <img class="large" src=${pictureUrl(entry.id)} alt=${`The picture that is labeled ${entry.labels.map((l) => l.name).join(" and ")}`}
          @load=${seen} @error=${hide} @click=${openFull}>`)}
      <button class="corner plain" @click=${openFull} aria-keyshortcuts="f" title="Full size (F)">⤢<span class="hidden">Full size</span></button>
    </div>`;
}

function seen(event) {
  if (event.type === "load") event.target.classList.add("loaded");
  if (app.ready || !event.target.isConnected) return;
  app.ready = true;
  update();
}

function hide(event) {
  event.target.hidden = true;
}

function finishedView() {
  return html`
    <div class="stage finished">
      <h1>All judged</h1>
      <p>Nothing in this queue waits for you. <a href="#/">Choose another one</a>, or look at
        <a href="#/queue/judged">what you judged</a>.</p>
      ${app.queue?.total ? html`<button class="plain" @click=${() => show(0).catch(fail)}>Look at this queue again</button>` : nothing}
    </div>`;
}

export function openFull() {
  if (!app.item) return;
  const dialog = document.getElementById("full");
  const img = dialog.querySelector("img");
  img.classList.remove("actual");
  img.src = pictureUrl(app.item.id);
  img.alt = `The picture that is labeled ${app.item.labels.map((l) => l.name).join(" and ")}, at full size`;
  dialog.showModal();
}

// ---------------------------------------------------------------------------------- buttons

export function actionsView() {
  const { item } = app;
  if (!item || app.finished) return nothing;
  const off = !app.start.writable;
  const several = item.labels.length > 1;
  const many = app.grid && (app.selection.size > 1 || (app.group && !app.selection.size));
  return html`
    <div class="actions" role="group" aria-label=${scope()}>
      ${app.grid ? html`<p class="scope">${scope()}</p>` : nothing}
      <div class="choices">
        ${several ? nothing : html`<button class="right" ?disabled=${off} @click=${() => judge("given")} aria-keyshortcuts="r">
          <kbd>R</kbd><span>${many ? "All right" : "Right"}</span></button>`}
        ${choices().map((choice, index) => html`
          <button class="other" ?disabled=${off} @click=${() => judge(choice.label, choice.name)} aria-keyshortcuts=${index + 1}>
            <kbd>${index + 1}</kbd><span>${choice.name}</span>${choice.prob ? html`<small>${percent(choice.prob)}</small>` : nothing}</button>`)}
      </div>
      <div class="rest">
        <div class="verdicts">
          <button class="search" ?disabled=${off} @click=${openSearch} aria-keyshortcuts="w"><kbd>W</kbd><span>Another class</span></button>
          <button class="nothing" ?disabled=${off} @click=${() => judge("none")} aria-keyshortcuts="x"><kbd>X</kbd><span>None of these</span></button>
          <button class="unsure" ?disabled=${off} @click=${() => judge("unsure")} aria-keyshortcuts="u"><kbd>U</kbd><span>Unsure</span></button>
        </div>
        <div class="walk">
          <button class="plain" @click=${() => (app.group ? nextGroup(-1) : move(-1))} ?disabled=${!app.queue}><span aria-hidden="true">←</span> ${app.group ? "Group before" : html`<span class="hidden">Previous</span>`}</button>
          <button class="plain" @click=${undo} ?disabled=${off || !app.progress?.undo} aria-keyshortcuts="z"><kbd>Z</kbd> Undo</button>
          <button class="plain" @click=${() => (app.group ? nextGroup(1) : move(1))} ?disabled=${!app.queue}>${app.group ? "Next group" : "Skip"} <span aria-hidden="true">→</span></button>
        </div>
      </div>
    </div>`;
}

// The classes with a key: of a group first what the models call most of it.
export function choices() {
  const { item, group } = app;
  if (!item) return [];
  const most = item.labels.length > 1 ? 9 : app.grid ? 4 : 5;
  const named = group?.groups[group.number]?.predicted;
  const others = item.choices.filter((choice, index) => choice.label !== named?.label && (index < 2 || choice.prob === null || choice.prob >= LEAST));
  return [...(named ? [{ ...named }] : []), ...others].slice(0, most);
}

function scope() {
  if (!app.grid) return "Judge this image";
  if (app.selection.size) return `Judges ${count(app.selection.size, "selected image")}`;
  if (app.group) {
    const entry = app.group.groups[app.group.number];
    const open = app.queue.total - app.queue.done;
    return open === entry?.images ? `Judges all ${open}` : `Judges the ${open} that are left`;
  }
  return "Judges the active image";
}

// ---------------------------------------------------------------------------------- what is known

export function aboutView() {
  const { item, about } = app;
  if (!item || app.finished) return nothing;
  if (!about) return html`<aside class="about" aria-label="About this image" tabindex="0"><p class="soft">…</p></aside>`;
  return html`
    <aside class="about" aria-label="About this image" tabindex="0">
      <section>
        <h2>Is ${item.labels.length > 1 ? html`“${item.labels[0].name}”` : "the label"} right?</h2>
        <p class="meter-line"><span class="meter" role="img" aria-label=${`Probably right: ${percent(about.right_prob)}`}><i class=${about.right_prob < 0.5 ? "low" : ""} .style=${`width:${100 * about.right_prob}%`}></i></span>
          <b>${percent(about.right_prob)}</b></p>
        <p class="soft">So probable is it, by all that is known. In training the image ${about.amount}${about.reasons.length ? `, since ${about.reasons.join("; ")}` : ""}.</p>
        ${about.factors.length ? html`<dl class="factors">${about.factors.map((factor) => html`<dt>${factor.question}</dt><dd>${factor.standing} <small>in its class</small></dd>`)}</dl>` : nothing}
      </section>
      ${item.members.length > 1 ? members(item.members) : copies(about.copies)}
      <section>
        <h2>Its page</h2>
        <dl class="page-text">
          ${pair("Title", about.title)}${pair("Text", about.description)}${pair("Tags", about.tags)}${pair("Query", about.query)}
          ${pair("From", [about.source, about.rank > 0 ? `rank ${about.rank}` : ""].filter(Boolean).join(", "))}
          ${pair("File", about.path)}${pair("Shown", about.packed ? `the packed picture, since ${about.packed}` : "")}${pair("Size", `${about.size[0]} × ${about.size[1]} px`)}
        </dl>
        <p><a href=${imageHash(item.id)}>Link to this image</a></p>
      </section>
      ${alikeView()}
    </aside>`;
}

function pair(name, text) {
  return text ? html`<dt>${name}</dt><dd>${text}</dd>` : nothing;
}

function members(entries) {
  return html`
    <section>
      <h2>Its copies</h2>
      <ul class="alike">${entries.map((entry) => html`
        <li><a href=${imageHash(entry.id)}><img src=${pictureUrl(entry.id, 160)} alt=${`Copy labeled ${entry.name}`}><span>${entry.name}</span></a></li>`)}</ul>
    </section>`;
}

function copies(entries) {
  if (!entries.length) return nothing;
  return html`
    <section>
      <h2>Copies</h2>
      <ul class="copies">${entries.map((entry) => html`<li><b>${entry.label || "no label"}</b> <small>${entry.split === "train" ? "" : `${entry.split}, `}${entry.path}</small></li>`)}</ul>
    </section>`;
}

function alikeView() {
  const { alike, item } = app;
  if (!alike) return nothing;
  if (!alike.ready) return html`<section><h2>Look-alikes</h2><p class="soft">Being prepared …</p></section>`;
  if (!alike.items.length) return nothing;
  const own = new Set(item.labels.map((l) => l.label));
  return html`
    <section>
      <h2>Look-alikes</h2>
      <ul class="alike">
        ${alike.items.map((other) => {
          const state = stateOf(other);
          const name = other.labels[0].name;
          return html`<li class=${own.has(other.labels[0].label) ? "" : "foreign"}><a href=${imageHash(other.id)} title=${`${name}; probably right: ${percent(other.right_prob)}`}>
            <img src=${pictureUrl(other.id, 160)} alt=${`Look-alike labeled ${name}`} loading="lazy"><span>${state.sign} ${name}</span></a></li>`;
        })}
      </ul>
    </section>`;
}
