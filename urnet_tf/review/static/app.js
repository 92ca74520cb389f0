// The frame of the page: what stands where, and where it begins.

import { html, nothing, render } from "./lit-html/lit-html.js";
import { get } from "./api.js";
import { aboutView, actionsView, stageView } from "./focus.js";
import { gridView, settle } from "./grid.js";
import { classesView, homeView } from "./home.js";
import { onKey, openDialog, toggleGrid } from "./keys.js";
import { panelView } from "./panel.js";
import { keysView } from "./search.js";
import { app, fail, follow, onChange, poll, refresh } from "./state.js";
import { count, percent } from "./words.js";

const root = document.getElementById("app");

function titleOf() {
  const { route, queue, group, item } = app;
  if (route.view === "classes") return "Class by class";
  if (route.view === "image") return "One image";
  if (!queue) return "Start";
  if (group) return `${group.name}: look-alikes`;
  if (queue.name.startsWith("class:")) return item?.labels[0]?.name ?? "One class";
  return app.start.queues.find((entry) => entry.name === queue.name)?.title ?? queue.name;
}

function header() {
  const { queue, progress } = app;
  const done = queue?.total ? `${Math.min(app.place + 1, queue.total).toLocaleString("en")} of ${queue.total.toLocaleString("en")}` : "";
  return html`
    <header>
      <a class="brand" href="#/" title="All queues (H)"><img src="/static/icon.svg" alt="" width="22" height="22"><b>${app.start.run}</b></a>
      <p class="where"><span aria-hidden="true">›</span> ${titleOf()} ${queue && !app.finished && !app.grid ? html`<small>${done}</small>` : nothing}</p>
      <nav aria-label="Tools">
        ${queue && !app.group ? html`<button class="plain" @click=${toggleGrid} aria-pressed=${app.grid} aria-keyshortcuts="g" title="Many at once, or one (G)">${app.grid ? "One" : "Many"}</button>` : nothing}
        <button class="plain tally" @click=${() => openDialog("panel")} aria-keyshortcuts="p" title="What your judgements tell so far (P)">${progress ? html`${progress.judged.toLocaleString("en")}<span class="long"> judged</span>` : "…"}</button>
        <button class="plain" @click=${() => openDialog("keys")} aria-keyshortcuts="?" title="Keys (?)"><span aria-hidden="true">?</span><span class="hidden">Keys</span></button>
      </nav>
      ${queue?.total ? html`<div class="thread" aria-hidden="true"><i .style=${`width:${(100 * queue.done) / queue.total}%`}></i></div>` : nothing}
    </header>`;
}

function groupHead() {
  const { group } = app;
  const entry = group.groups[group.number];
  if (!entry) return nothing;
  return html`
    <div class="question">
      <h1>These ${entry.images} look alike and are all <b>${group.name}</b></h1>
      <p class="soft">Group ${group.number + 1} of ${group.groups.length}; class ${group.place + 1} of ${group.places}.
        ${percent(entry.wrong)} look wrong${entry.predicted ? html`; the models call ${entry.agreeing} of them <b>${entry.predicted.name}</b>` : nothing}.
        ${group.left_out ? html`${count(group.left_out, "image")} of this class are in no group; see <a href=${`#/class/:${group.label}`}>all of them</a>.` : nothing}</p>
    </div>`;
}

function queueHead() {
  const { queue, route } = app;
  return html`
    <div class="question">
      <h1>${route.label !== undefined ? html`Which are not <b>${app.item?.labels[0]?.name ?? ""}</b>?` : titleOf()}</h1>
      <p class="soft">${count(queue.total, "image")}, ${queue.done.toLocaleString("en")} judged.
        ${route.label === undefined ? nothing : html`Least probable first; or <a href=${`#/group/:${route.label}/0`}>by look-alikes</a>.`}</p>
    </div>`;
}

function main() {
  const { view } = app.route;
  if (view === "boot") return html`<main class="single"><p class="boot">Opening …</p></main>`;
  if (view === "home" || view === "classes") return html`<main class="single">${view === "home" ? homeView() : classesView()}</main>`;
  if (app.queue?.total === 0) {
    return html`<main class="single"><div class="home"><h1>${titleOf()}</h1><p>${app.queue.name === "judged" ? "Nothing is judged yet." : "There are no such images in this run."} <a href="#/">All queues</a></p></div></main>`;
  }
  if (app.grid && app.queue) {
    return html`<main class="many">${app.group ? groupHead() : queueHead()}${gridView()}${actionsView()}</main>`;
  }
  return html`<main class="one"><div class="work">${stageView()}${actionsView()}</div>${aboutView()}</main>`;
}

function blocked() {
  const rerun = app.blocked.kind === "rerun";
  return html`
    <main class="single"><div class="home blocked" role="alert">
      <h1>${rerun ? "The run was made again" : "This page is out of date"}</h1>
      <p>${rerun
        ? html`The images or their numbers have changed since <code>urnet review</code> was started. Stop it with Ctrl-C and start it anew; all judgements are kept.`
        : html`It belongs to another start of <code>urnet review</code>. Open the address that the terminal shows now; all judgements are kept.`}</p>
    </div></main>`;
}

function notice() {
  const { notice } = app;
  return html`<div class="notices" role="status" aria-live="polite">${notice ? html`<p class=${`notice ${notice.kind}`}>${notice.text}</p>` : nothing}</div>`;
}

function page() {
  if (app.blocked) return blocked();
  if (!app.start) return html`<main class="single"><p class="boot">Opening the run …</p></main>${notice()}`;
  const wide = app.route.view !== "boot";
  return html`
    ${header()}
    ${app.start.writable ? nothing : html`<p class="banner" role="alert">${app.start.log} cannot be written: this is for looking only.</p>`}
    <div class="frame">
      ${wide ? html`<aside class="side" aria-label="So far" tabindex="0">${panelView()}</aside>` : nothing}
      ${main()}
    </div>
    ${notice()}
    <dialog id="panel" aria-label="So far" @click=${closeOutside}>${panelView()}<div class="row"><button class="plain" @click=${close}>Close</button></div></dialog>
    <dialog id="keys" aria-label="Keys" @click=${closeOutside}>${keysView()}</dialog>
    <dialog id="search" aria-label="Another class" @click=${closeOutside}></dialog>
    <dialog id="full" aria-label="The picture at full size"><div class="full-frame" tabindex="0" role="group" aria-label="The picture"><img alt="" @click=${(e) => e.target.classList.toggle("actual")}></div><button class="plain corner" @click=${close}>Close</button></dialog>`;
}

function close(event) {
  event.target.closest("dialog").close();
}

function closeOutside(event) {
  if (event.target.tagName === "DIALOG") event.target.close();
}

onChange(() => {
  render(page(), root);
  root.dataset.followed = app.followed;
  document.title = app.start ? `${titleOf()} – ${app.start.run} – urnet review` : "urnet review";
  settle();
});

async function begin() {
  root.replaceChildren();
  try {
    [app.start] = await Promise.all([get("start"), refresh()]);
    await follow();
    poll();
  } catch (error) {
    fail(error);
  }
}

document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", follow);
begin();
