// What the page knows and does: where it is, what is shown, what was judged. Views are drawn from it.

import { get, post } from "./api.js";
import { Queue } from "./queue.js";

const POLL_MS = 5000;
const STACK = "urnet-review-actions";

export const app = {
  start: null, // what the server tells once
  progress: null, // what judgements tell so far
  route: { view: "boot" },
  queue: null,
  place: 0, // of the entry that is shown or active
  item: null,
  about: null, // all that stands beside the picture
  alike: null, // images that look like it
  grid: false,
  selection: new Set(), // places in the grid
  finished: false, // nothing is left in the queue
  ready: false, // the picture can be seen
  busy: false, // a judgement is on its way
  notice: null, // { text, kind }: what was done, or what went wrong
  blocked: null, // why this page cannot go on
  group: null, // the groups of one class
  followed: 0, // addresses whose view is complete
};

let draw = () => {};
let showing = 0; // counts what is asked for: only the last is drawn
let drawing = false;

export function onChange(callback) {
  draw = callback;
}

export function update() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

// ---------------------------------------------------------------------------------- notices, failures

let noticeTimer = null;

export function say(text, kind = "done", ms = 6000) {
  clearTimeout(noticeTimer);
  app.notice = { text, kind, stays: ms === 0 };
  if (ms) noticeTimer = setTimeout(() => { app.notice = null; update(); }, ms);
  update();
}

// Tells of a failure; whether it was one that this page cannot go on from.
export function fail(error) {
  if (error.kind === "gone" || error.kind === "rerun") {
    app.blocked = error;
  } else {
    // That something was not saved is not covered by what else the lost server did not answer.
    if (!(app.notice?.stays && error.kind === "away")) say(error.message, "bad", error.kind === "away" ? 0 : 10000);
    if (!error.kind) console.error(error);
  }
  update();
}

// ---------------------------------------------------------------------------------- where the page is

export function go(hash, replace = false) {
  if (replace) {
    history.replaceState(null, "", hash);
    return follow();
  }
  if (location.hash === hash) return follow();
  location.hash = hash;
  return Promise.resolve();
}

export function queueHash(name, place = null) {
  const [kind, ...rest] = name.split(":");
  if (kind === "group") return `#/group/:${rest[0]}/${rest[1]}`;
  const path = kind === "class" ? `class/:${rest[0]}` : `queue/${name}`;
  return `#/${path}${place === null ? "" : `/${place}`}`;
}

export function imageHash(id) {
  return `#/image/${id}`;
}

// Reads the address and loads what it asks for. Whoever goes elsewhere meanwhile is not called back.
let journey = 0;

class Overtaken extends Error {}

export async function follow() {
  if (!app.start || app.blocked) return;
  const mine = ++journey;
  const load = async (request) => {
    const found = await request;
    if (mine !== journey) throw new Overtaken();
    return found;
  };
  const [view, first = "", second = ""] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  try {
    if (view === "queue") await openQueue(load, first, second);
    else if (view === "class") await openClass(load, first, second);
    else if (view === "groups") await openGroups(load, first);
    else if (view === "group") await openGroup(load, first, second);
    else if (view === "image") await openImage(load, first);
    else if (view === "classes") leaveQueue("classes");
    else leaveQueue("home");
    app.followed += 1;
  } catch (error) {
    if (error instanceof Overtaken) return;
    fail(error);
    if (app.route.view === "boot") leaveQueue("home");
  }
  update();
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function leaveQueue(view) {
  showing += 1; // what is still being loaded comes too late
  Object.assign(app, { route: { view }, queue: null, item: null, about: null, alike: null, finished: false, group: null });
  app.selection.clear();
}

async function openQueue(load, name, place, extra = {}) {
  let { queue } = app;
  if (queue?.name !== name) {
    queue = new Queue(name);
    await load(queue.load(Number(place) || 0));
    leaveQueue("queue");
    app.queue = queue;
    app.grid = extra.grid ?? false;
  }
  app.route = { view: "queue", ...extra };
  app.group = extra.group ?? null;
  const known = place !== "" && Number.isInteger(Number(place)) && Number(place) >= 0;
  await show(known ? Math.min(Number(place), Math.max(queue.total - 1, 0)) : await load(queue.nextOpen(-1)));
}

async function openClass(load, name, place) {
  const { label } = await load(get("find", { label: name }));
  const grid = app.queue?.name === `class:${label}` ? app.grid : place === "";
  await openQueue(load, `class:${label}`, place, { label, grid });
}

async function openImage(load, what) {
  const { id } = await load(get("find", { image: what }));
  leaveQueue("image");
  app.grid = false;
  app.route = { view: "image", id };
  await showImage(id);
}

async function openGroups(load, place) {
  const found = await load(get("groups", { place: Number(place) || 0 }));
  const open = found.groups.find((group) => group.judged < group.images) ?? found.groups[0];
  if (open) await go(queueHash(open.queue), true);
  else leaveQueue("home");
}

async function openGroup(load, name, number) {
  const { label, place } = await load(get("find", { label: name }));
  const groups = await load(get("groups", { place }));
  const group = { ...groups, number: Number(number) || 0 };
  await openQueue(load, `group:${label}:${group.number}`, "0", { label, grid: true, group });
}

// ---------------------------------------------------------------------------------- one entry

export async function show(place) {
  const ticket = ++showing;
  app.finished = place < 0;
  if (app.finished) {
    Object.assign(app, { item: null, about: null, alike: null, ready: false });
    return update();
  }
  const { queue } = app;
  const item = await queue.at(place);
  if (ticket !== showing || queue !== app.queue) return;
  if (!item) return update();
  app.place = place;
  if (app.route.view === "queue" && !app.group) history.replaceState(null, "", queueHash(queue.name, place));
  if (app.grid) {
    app.item = item;
    return update();
  }
  // What stands beside the picture comes when it comes: the next key need not wait for it.
  showImage(item.id, item).catch(fail);
  prefetch(queue, place);
}

async function showImage(id, item = null) {
  const ticket = ++showing;
  if (app.item?.id !== id) Object.assign(app, { about: null, alike: null, ready: false });
  if (item) app.item = item;
  update();
  const found = await get("image", { id, queue: app.queue?.name ?? "" });
  if (ticket !== showing) return;
  app.item = found.item;
  app.queue?.replace([found.item]);
  app.about = found.about;
  update();
  lookFor(id, ticket);
}

// Look-alikes come last, since nobody waits for them.
async function lookFor(id, ticket) {
  await new Promise((resolve) => setTimeout(resolve, 400));
  if (ticket !== showing || app.grid) return;
  try {
    const found = await get("look_alikes", { id });
    if (ticket !== showing) return;
    app.alike = found;
    update();
    if (!found.ready) setTimeout(() => ticket === showing && lookFor(id, ticket), 1500);
  } catch (error) {
    if (ticket === showing) fail(error);
  }
}

export function pictureUrl(id, side) {
  const { results } = app.start;
  return side ? `/api/thumbnail/${results}/${id}/${side}` : `/api/large/${results}/${id}`;
}

function prefetch(queue, place) {
  for (let next = place + 1; next <= place + 3; next += 1) {
    queue.at(next).then((item) => {
      if (!item) return;
      new Image().src = pictureUrl(item.id, 320);
      new Image().src = pictureUrl(item.id);
    }).catch(() => {});
  }
}

export async function move(step) {
  if (!app.queue || app.queue.total === null) return;
  const from = app.finished ? app.queue.total : app.place;
  const place = Math.min(Math.max(from + step, 0), app.queue.total - 1);
  try {
    await show(place);
  } catch (error) {
    fail(error);
  }
}

export async function nextOpen(back = false) {
  try {
    const place = await app.queue.nextOpen(app.place, back);
    if (place >= 0) return await show(place);
    // Nothing behind: perhaps something was left out before.
    const first = await app.queue.nextOpen(-1);
    await show(first);
    if (first >= 0) say("That was the last one; this was left out before.");
  } catch (error) {
    fail(error);
  }
}

// ---------------------------------------------------------------------------------- judging

// The entries that a judgement is about: the selection, else a whole group, else the one that is shown.
export async function subjects() {
  if (!app.grid || !app.queue) return app.item ? [app.item] : [];
  if (app.selection.size) {
    const items = [];
    for (const place of [...app.selection].sort((a, b) => a - b)) items.push(await app.queue.at(place));
    return items.filter(Boolean);
  }
  if (app.group) {
    const items = await app.queue.range(0, app.queue.total - 1);
    return items.filter((item) => item.truth === null);
  }
  return app.item ? [app.item] : [];
}

export async function judge(truth, name) {
  if (app.busy || app.blocked) return;
  if (!app.start.writable) return say("The work directory cannot be written: judgements cannot be kept.", "bad");
  if (!app.grid && !app.ready) return; // what is not seen yet is not judged
  app.busy = true;
  try {
    const items = await subjects();
    if (!items.length) return;
    if (truth === "given" && items.some((item) => item.labels.length > 1)) {
      return say("This picture stands under several labels: choose one of them with its number.", "bad");
    }
    const { queue, route } = app;
    const done = await post("judge", {
      results: app.start.results,
      ids: items.flatMap((item) => item.ids),
      revisions: items.flatMap((item) => item.revisions),
      truth,
      queue: queue?.name ?? "image",
    });
    push({ when: done.when, hash: location.hash, place: app.place });
    queue?.replace(done.items);
    say(sentence(items, truth, name));
    refresh();
    if (queue === app.queue && route.view === app.route.view) await goOn(items, done.items);
  } catch (error) {
    await failToJudge(error);
  } finally {
    app.busy = false;
    update();
  }
}

function sentence(items, truth, name) {
  const what = items.length > 1 ? `${items.length} images` : items[0].labels.map((l) => l.name).join(" / ");
  const verdict = { given: "right", none: "none of these", unsure: "unsure" }[truth] ?? name;
  return `${what} → ${verdict}`;
}

async function goOn(items, changed) {
  if (app.route.view === "image") {
    app.item = changed.find((item) => item.id === app.route.id) ?? app.item;
    return;
  }
  if (app.grid) {
    app.selection.clear();
    const open = await app.queue.nextOpen(-1);
    if (open < 0 && app.group) return nextGroup();
    const next = items.length === 1 && !app.group ? app.place + 1 : await app.queue.nextOpen(app.place);
    await show(Math.min(next < 0 ? app.place : next, app.queue.total - 1));
    return;
  }
  if (app.queue.name === "judged") {
    app.queue.forget();
    return show(Math.min(app.place + 1, app.queue.total - 1));
  }
  await nextOpen();
}

async function failToJudge(error) {
  if (error.kind === "stale") {
    app.queue?.forget();
    if (app.grid) await show(app.place);
    else await showImage(app.item.id);
    say("Somebody has judged this meanwhile; what you see is new. Your key again replaces it.", "bad", 12000);
    refresh();
    return;
  }
  if (error.kind === "gone" || error.kind === "rerun") fail(error);
  else say(`Not saved: ${error.message}`, "bad", 0);
}

export async function undo() {
  if (app.busy || app.blocked || !app.start.writable) return;
  app.busy = true;
  try {
    const stack = actions();
    const last = stack.pop();
    const done = await post("undo", { when: last?.when ?? null, queue: app.queue?.name ?? "" });
    sessionStorage.setItem(STACK, JSON.stringify(stack));
    if (!done.ids.length) return say("There is nothing to undo.");
    app.queue?.forget();
    app.selection.clear();
    say(done.images > 1 ? `${done.images} judgements taken back` : "Taken back");
    refresh();
    if (last && last.hash !== location.hash && !sameQueue(last.hash)) await go(last.hash);
    else if (last && app.queue) await show(last.place);
    else if (done.place >= 0 && app.queue) await show(done.place);
    else await go(imageHash(done.ids[0]));
    if (app.route.view === "image") await follow();
  } catch (error) {
    if (error.kind === "stale") {
      sessionStorage.setItem(STACK, JSON.stringify(actions().slice(0, -1)));
      say("This was judged again since; nothing was taken back.", "bad");
    } else {
      fail(error);
    }
  } finally {
    app.busy = false;
    update();
  }
}

function sameQueue(hash) {
  const stem = (text) => text.replace(/^(#\/(?:queue|class)\/[^/]+)\/.*$/, "$1");
  return stem(hash) === stem(location.hash);
}

function actions() {
  try {
    return JSON.parse(sessionStorage.getItem(STACK)) ?? [];
  } catch {
    return [];
  }
}

function push(action) {
  sessionStorage.setItem(STACK, JSON.stringify([...actions(), action].slice(-200)));
}

// ---------------------------------------------------------------------------------- groups

export async function nextGroup(step = 1) {
  const { groups, number, place, places } = app.group;
  const target = number + step;
  if (groups[target]) return go(queueHash(groups[target].queue));
  const other = (place + step + places) % places;
  const found = await get("groups", { place: other });
  const entry = step > 0 ? (found.groups.find((g) => g.judged < g.images) ?? found.groups[0]) : found.groups.at(-1);
  if (entry) await go(queueHash(entry.queue));
}

// ---------------------------------------------------------------------------------- progress

let refreshing = null;

export function refresh() {
  refreshing ??= get("progress").then((found) => {
    app.progress = found;
    if (!found.current) app.blocked = { kind: "rerun", message: "" };
    update();
  }).catch(fail).finally(() => { refreshing = null; });
  return refreshing;
}

// Looks from time to time whether somebody else has judged.
export function poll() {
  setInterval(async () => {
    if (document.hidden || app.busy || app.blocked || !app.progress) return;
    const before = app.progress.rows;
    const wasAway = app.notice?.kind === "bad";
    await refresh();
    if (app.progress.rows === before || app.busy) return;
    if (wasAway) app.notice = null;
    app.queue?.forget();
    if (app.queue && !app.finished) await show(app.place).catch(fail);
  }, POLL_MS);
}
