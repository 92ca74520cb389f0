// A queue of images, of which pages are loaded as they are needed: the whole of it is never here.

import { get } from "./api.js";

const PAGE = 50;
const MOST_PAGES = 60;

export class Queue {
  constructor(name) {
    this.name = name;
    this.total = null; // not known before the first page
    this.done = 0;
    this.pages = new Map(); // number of a page → its entries; the one used last stands last
    this.loading = new Map();
  }

  // The entry at a place, if it is here.
  peek(place) {
    return this.pages.get(Math.floor(place / PAGE))?.[place % PAGE];
  }

  async at(place) {
    await this.load(place);
    return this.peek(place);
  }

  async load(place) {
    const number = Math.floor(place / PAGE);
    if (this.pages.has(number)) {
      const kept = this.pages.get(number);
      this.pages.delete(number);
      this.pages.set(number, kept);
      return;
    }
    if (!this.loading.has(number)) {
      const request = get("items", { queue: this.name, offset: number * PAGE, limit: PAGE });
      this.loading.set(number, request);
      try {
        const found = await request;
        this.pages.set(number, found.items);
        this.total = found.total;
        this.done = found.done;
        while (this.pages.size > MOST_PAGES) this.pages.delete(this.pages.keys().next().value);
      } finally {
        this.loading.delete(number);
      }
    } else {
      await this.loading.get(number);
    }
  }

  async range(first, last) {
    const found = [];
    for (let place = first; place <= last; place += 1) found.push(await this.at(place));
    return found.filter(Boolean);
  }

  isOpen(item) {
    return this.name === "random" ? !item.sampled : item.truth === null;
  }

  // The place of the next entry that waits for a judgement; -1 where there is none.
  async nextOpen(after, back = false) {
    const step = back ? -1 : 1;
    for (let place = after + step; ; place += step) {
      const item = this.peek(place);
      if (!item) break;
      if (this.isOpen(item)) return place;
    }
    return (await get("next", { queue: this.name, after, back })).place;
  }

  // Takes up what has become of images.
  replace(items) {
    const byId = new Map(items.map((item) => [item.id, item]));
    for (const entries of this.pages.values()) {
      entries.forEach((entry, index) => {
        const now = byId.get(entry.id);
        if (!now) return;
        const was = this.isOpen(entry);
        entries[index] = now;
        this.done += Number(was) - Number(this.isOpen(entries[index]));
      });
    }
  }

  forget() {
    this.pages.clear();
  }
}
