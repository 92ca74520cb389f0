"use strict";
// The scripts of the page, one after the other in one <script>. Texts of the crawl become text nodes and
// attributes, never HTML. Data comes from scripts in data/, which assign to urnetData: a page that was opened as a
// file may not fetch.

const data = (self.urnetData = self.urnetData || {});
const loading = {};
const report = document.getElementById("report");
const header = document.querySelector("header");
const view = document.getElementById("view");
const title = document.title;
const NARROW_SPACE = "\u00a0";

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "style") Object.assign(element.style, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

function load(name) {
  if (name in data) return Promise.resolve(data[name]);
  loading[name] ??= new Promise((done, fail) => {
    const script = make("script", { src: `data/${name}.js` });
    const missing = () => {
      delete loading[name];
      fail(new Error(`data/${name}.js is not beside this page, or cannot be read.`));
    };
    script.onload = () => (name in data ? done(data[name]) : missing());
    script.onerror = missing;
    document.head.append(script);
  });
  return loading[name];
}

const count = (value) => Math.round(value).toLocaleString("en-US");
const several = (value, one, more) => `${count(value)} ${value === 1 ? one : more}`;

function percent(share) {
  if (share === null || share === undefined) return "–";
  if (share > 0 && share < 0.0005) return `under 0.1${NARROW_SPACE}%`;
  const small = share < 0.0995 && Math.round(1000 * share) % 10 !== 0;
  return `${(100 * share).toFixed(small ? 1 : 0)}${NARROW_SPACE}%`;
}

function times(weight) {
  const size = Math.abs(weight);
  const text = size > 0 && size < 0.095 ? weight.toPrecision(2) : weight.toFixed(size < 10 ? 2 : 1);
  return text.replace("-", "−");
}

const bar = (share, kind) =>
  make("span", { class: "track" }, make("i", { class: kind, style: { width: `${100 * share}%` } }));
const classLink = (label) => make("a", { href: `#/class/${label}` }, data.classes.rows[label][0]);
const note = (...children) => make("p", { class: "note" }, ...children);
const sorry = (error) => note(make("b", {}, error.message));
const hasPages = () => report.dataset.pages === "1";
