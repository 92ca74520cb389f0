// The matrix of mix-ups on a canvas: rows by label, columns by what the models say.

const SMALLEST_TEXT = 12; // pixels of a cell that gets its name
const FEWEST_SEEN = 4; // rows

const bounded = (value, most) => Math.max(0, Math.min(most, value));

function themeColors() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => [name, style.getPropertyValue(`--${name}`)];
  return Object.fromEntries(["doubt", "good", "ink", "soft", "well"].map(value));
}

// What is drawn: rows of the matrix in the order of the cells, and which part of it is seen.
class Matrix {
  constructor(cells, classes, canvas, width) {
    const number = cells.order.length;
    const place = new Array(number);
    cells.order.forEach((label, at) => (place[label] = at));
    Object.assign(this, { number, canvas, width, order: cells.order, pen: canvas.getContext("2d") });
    this.names = cells.order.map((label) => classes.rows[label][0]);
    this.sizes = cells.order.map((label) => classes.rows[label][1]);
    this.rows = Array.from({ length: number }, () => new Map());
    cells.given.forEach((given, i) => this.rows[place[given]].set(place[cells.predicted[i]], cells.count[i]));
    cells.agreed.forEach((agreed, label) => agreed && this.rows[place[label]].set(place[label], agreed));
    this.wrong = new Map(cells.given.map((given, i) => [`${given},${cells.predicted[i]}`, cells.wrong[i]]));
    this.cursor = cells.given.length ? [place[cells.given[0]], place[cells.predicted[0]]] : [0, 0];
    this.seen = number > 60 ? 40 : number; // rows and columns
    this.first = this.cursor.map((at) => bounded(at - Math.floor(this.seen / 2), number - this.seen));
  }

  get side() { return this.width(); }
  get edge() { return this.side / this.seen >= SMALLEST_TEXT ? Math.min(130, this.side / 3.5) : 0; }
  get cell() { return (this.side - this.edge) / this.seen; }
  get images() { return this.rows[this.cursor[0]].get(this.cursor[1]) || 0; }
  get share() { return this.images / Math.max(1, this.sizes[this.cursor[0]]); }

  draw() {
    const { side, edge, cell, pen, canvas } = this;
    const color = themeColors();
    const ratio = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [side * ratio, side * ratio];
    [canvas.style.width, canvas.style.height] = [`${side}px`, `${side}px`];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = color.well;
    pen.fillRect(edge, edge, side - edge, side - edge);
    this.drawCells(edge, cell, color);
    if (edge) this.drawNames(edge, cell, color);
    const [y, x] = this.cursor.map((at, axis) => edge + (at - this.first[axis]) * cell);
    if (x < edge - 1 || y < edge - 1) return;
    pen.strokeStyle = color.ink;
    pen.lineWidth = 2;
    pen.strokeRect(x, y, Math.max(cell, 3), Math.max(cell, 3));
  }

  drawCells(edge, cell, color) {
    const { pen, first: [top, left], seen } = this;
    const gap = cell > 6 ? 1 : 0;
    const last = Math.min(this.number, Math.ceil(top + seen));
    for (let row = Math.floor(top); row < last; row++) {
      for (const [column, images] of this.rows[row]) {
        if (column < left - 1 || column >= left + seen) continue;
        const share = Math.min(1, images / Math.max(1, this.sizes[row]));
        const [x, y] = [edge + (column - left) * cell, edge + (row - top) * cell];
        const [fromX, fromY] = [Math.max(x, edge), Math.max(y, edge)];
        pen.fillStyle = row === column ? color.good : color.doubt;
        pen.globalAlpha = 0.12 + 0.88 * Math.sqrt(share);
        pen.fillRect(fromX, fromY, Math.max(x + cell - fromX - gap, 0.7), Math.max(y + cell - fromY - gap, 0.7));
      }
    }
    pen.globalAlpha = 1;
  }

  drawNames(edge, cell, color) {
    const { pen, side, number } = this;
    pen.fillStyle = color.soft;
    pen.font = `${Math.min(13, cell)}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    for (let i = 0; i <= this.seen; i++) {
      const [row, column] = this.first.map((from) => Math.ceil(from) + i);
      const [y, x] = [row, column].map((at, axis) => edge + (at - this.first[axis] + 0.5) * cell);
      pen.textAlign = "right";
      if (row < number && y < side) pen.fillText(this.shortName(row, edge - 8), edge - 5, y);
      if (column >= number || x >= side) continue;
      pen.save();
      pen.translate(x, edge - 5);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(this.shortName(column, edge - 8), 0, 0);
      pen.restore();
    }
  }

  shortName(at, width) {
    let text = this.names[at];
    while (text.length > 3 && this.pen.measureText(text).width > width) text = `${text.slice(0, -2)}…`;
    return text;
  }

  moveTo(row, column) {
    const last = this.number - this.seen;
    this.cursor = [bounded(row, this.number - 1), bounded(column, this.number - 1)];
    this.first = this.first.map((from, axis) =>
      bounded(Math.max(Math.min(from, this.cursor[axis]), this.cursor[axis] - this.seen + 1), last));
    this.draw();
  }

  zoom(factor, around = this.cursor) {
    const before = this.seen;
    const fewest = Math.min(this.number, FEWEST_SEEN);
    this.seen = Math.max(Math.round(bounded(this.seen * factor, this.number)), fewest);
    this.first = this.first.map((from, axis) => {
      const middle = around[axis] + 0.5;
      return bounded(middle - ((middle - from) * this.seen) / before, this.number - this.seen);
    });
    this.draw();
  }

  drag(from, by) {
    this.first = from.map((at, axis) => bounded(at - by[axis] / this.cell, this.number - this.seen));
    this.draw();
  }

  under(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientY - box.top, event.clientX - box.left].map((at, axis) =>
      bounded(Math.floor(this.first[axis] + (at - this.edge) / this.cell), this.number - 1));
  }

  describe() {
    const [given, predicted] = this.cursor.map((at) => this.names[at]);
    const found = `${several(this.images, "image", "images")}, ${percent(this.share)}`;
    if (this.cursor[0] === this.cursor[1]) return `${given}: the models agree with the label of ${found}.`;
    const wrong = this.wrong.get(this.cursor.map((at) => this.order[at]).join()) || 0;
    const told = this.images ? ` About ${count(wrong)} of these labels are wrong.` : "";
    return `${given} called ${predicted}: ${found} of ${given}.${told}`;
  }
}

async function showExamples(matrix, place) {
  const [given, predicted] = matrix.cursor.map((at) => matrix.order[at]);
  if (!hasPages()) return place.replaceChildren(note("No pages of classes were made."));
  place.replaceChildren(make("p", {}, classLink(given), given === predicted ? "" : [" and ", classLink(predicted)]));
  try {
    const page = await load(`class-${given}`);
    const wanted = page.cards.filter((card) => card.predicted === data.classes.rows[predicted][0]);
    const none = matrix.images ? "None of them is among the pictures of this class." : "There is no such image.";
    place.append(wanted.length ? make("div", { class: "cards" }, wanted.slice(0, 6).map(cardOf)) : note(none));
  } catch (error) {
    place.append(sorry(error));
  }
}

function showMatrix(panel, cells, classes) {
  const canvas = make("canvas", {
    tabindex: 0, role: "application", "aria-label": "Matrix of mix-ups",
    "aria-describedby": "matrix-help matrix-cell",
  });
  const told = make("p", { id: "matrix-cell", role: "status" });
  const examples = make("div", {});
  const matrix = new Matrix(cells, classes, canvas, () => Math.min(panel.clientWidth - 34, 760));
  const open = () => showExamples(matrix, examples);
  const move = (row, column) => {
    matrix.moveTo(row, column);
    examples.replaceChildren();
    told.textContent = matrix.describe();
  };
  const step = (down, right) => () => move(matrix.cursor[0] + down, matrix.cursor[1] + right);
  const button = (text, label, action) => {
    const made = make("button", { type: "button", "aria-label": label }, text);
    made.onclick = action;
    return made;
  };
  const [closer, farther, whole] = [0.5, 2, matrix.number].map((factor) => () => matrix.zoom(factor));
  const keys = {
    ArrowUp: step(-1, 0), ArrowDown: step(1, 0), ArrowLeft: step(0, -1), ArrowRight: step(0, 1),
    "+": closer, "=": closer, "-": farther, Home: whole, Enter: open,
  };
  canvas.onkeydown = (event) => {
    if (!Object.hasOwn(keys, event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  };
  let dragged = null;
  canvas.onpointerdown = (event) => {
    dragged = { at: [event.clientY, event.clientX], first: matrix.first, moved: false };
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => {
    if (!dragged) return;
    const by = [event.clientY - dragged.at[0], event.clientX - dragged.at[1]];
    dragged.moved ||= Math.hypot(...by) > 5;
    if (dragged.moved) matrix.drag(dragged.first, by);
  };
  canvas.onpointercancel = () => (dragged = null);
  canvas.onpointerup = (event) => {
    const clicked = dragged && !dragged.moved;
    dragged = null;
    if (!clicked) return;
    move(...matrix.under(event));
    open();
  };
  canvas.onwheel = (event) => {
    event.preventDefault();
    matrix.zoom(event.deltaY > 0 ? 1.25 : 0.8, matrix.under(event));
  };
  panel.append(
    make("div", { class: "buttons" }, button("+", "Zoom in", closer), button("−", "Zoom out", farther),
      button("Whole", "Show the whole matrix", whole), button("Examples", "Examples of the chosen cell", open)),
    canvas, told, examples,
  );
  if (cells.leftOut) panel.append(note(`${count(cells.leftOut)} cells with fewest images are left out.`));
  new ResizeObserver(() => matrix.draw()).observe(panel);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => matrix.draw());
  move(...matrix.cursor);
}
