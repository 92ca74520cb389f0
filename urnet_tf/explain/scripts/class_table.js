// The table of all classes: search, order, as many rows as are asked for.

const AT_ONCE = 100;

function showClasses(classes) {
  const table = document.getElementById("class-table");
  const [search, more] = ["class-name", "class-more"].map((id) => document.getElementById(id));
  const linked = hasPages();
  const known = classes.rows.some((row) => row[2] !== null);
  const columns = [["Class", 0, 1], ["Images", 1, -1]];
  if (known) columns.push(["Look wrong", 2, -1], ["95 % interval", 3, -1], ["Mean weight", 5, -1]);
  if (classes.models.length) columns.push(["Measured on", 6, -1]);
  const names = { baseline: "Plain training right", urnet: "URNet right" };
  classes.models.forEach((model, at) => columns.push([names[model] || model, 7 + at, 1]));
  let [by, sign, shown] = [known ? 2 : 1, -1, AT_ONCE];
  const compare = (a, b) => {
    const [x, y] = [classes.rows[a][by], classes.rows[b][by]];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (by ? x - y : x.localeCompare(y)) || a - b;
  };

  function cells(label) {
    const row = classes.rows[label];
    return columns.map(([, at]) => {
      if (at === 0) return make("td", {}, linked && row[1] ? classLink(label) : row[0]);
      const value = row[at];
      const text =
        value === null ? "–"
        : at === 3 ? `${percent(row[3])} – ${percent(row[4])}`
        : at === 5 ? `${times(value)}×`
        : at === 1 || at === 6 ? count(value)
        : percent(value);
      return make("td", { class: "n" }, text);
    });
  }

  function draw() {
    const wanted = search.value.trim().toLowerCase();
    const labels = [...classes.rows.keys()].filter((j) => classes.rows[j][0].toLowerCase().includes(wanted));
    labels.sort(compare);
    const head = columns.map(([name, at, first]) => {
      const state = at === by ? (sign > 0 ? "ascending" : "descending") : null;
      const button = make("button", { type: "button", class: "sort" }, name);
      button.onclick = () => {
        [by, sign] = [at, at === by ? -sign : first];
        draw();
        [...table.querySelectorAll(".sort")].find((other) => other.textContent === name).focus();
      };
      return make("th", { class: at ? "n" : null, scope: "col", "aria-sort": state }, button);
    });
    table.replaceChildren(
      make("thead", {}, make("tr", {}, head)),
      make("tbody", {}, labels.slice(0, shown).map((label) => make("tr", {}, cells(label)))),
    );
    document.getElementById("class-count").textContent = several(labels.length, "class", "classes");
    more.hidden = labels.length <= shown;
  }

  search.oninput = () => {
    shown = AT_ONCE;
    draw();
  };
  more.onclick = () => {
    shown += 5 * AT_ONCE;
    draw();
  };
  document.getElementById("class-search").hidden = false;
  document.getElementById("class-rest").textContent = "";
  draw();
}
