// The page of one class.

const picture = (card) =>
  card.uri
    ? make("img", { src: card.uri, alt: card.title || card.path, title: card.path, loading: "lazy" })
    : make("span", { class: "nothing" }, "not shown");

function cardOf(card) {
  const from = [card.source, card.rank > 0 ? `rank ${card.rank}` : ""].filter(Boolean).join(", ");
  return make(
    "figure", { class: card.right < 0.5 ? "card low" : "card" },
    picture(card),
    make(
      "figcaption", {},
      make("div", { class: "big" }, `${percent(card.right)} right`),
      make("div", { class: "title" }, card.title || card.path),
      make("div", { class: "from" }, from),
    ),
    make("p", { class: "why" }, `It ${card.why} (${times(card.relative)}×).`),
    make("p", { class: "path" }, card.path),
  );
}

function mixUps(label, page, images) {
  const byId = new Map(page.cards.map((card) => [card.id, card]));
  const rows = [[label, page.agreed, []], ...page.out];
  return make(
    "div", { class: "calls" },
    rows.map(([other, number, examples]) => [
      make("div", { class: "name" }, other === label ? "its own name" : classLink(other)),
      bar(number / images, other === label ? "good" : "doubt"),
      make("div", { class: "n" }, count(number)),
      make("div", { class: "strip" }, examples.map((id) => picture(byId.get(id)))),
    ]),
  );
}

function wordsOf(page) {
  const words = page.words;
  if (!words || !(words.doubtful.length + words.trusted.length)) return [];
  const row = (kind, tone) =>
    words[kind].length
      ? [make("dt", {}, kind), make("dd", {}, words[kind].map(([word, a, b]) => [
          make("span", {
            class: tone,
            title: `in ${a} of ${words.titles[0]} titles of doubtful images, ${b} of ${words.titles[1]} of trusted ones`,
          }, word), " "]))]
      : [];
  return [
    make("h2", { class: "part" }, "Words of the titles"),
    make("dl", { class: "telling" }, row("doubtful", "doubt"), row("trusted", "good")),
  ];
}

function searchesOf(page) {
  if (!page.searches.length) return [];
  const rows = page.searches.map(([source, query, images, wrong]) =>
    make("tr", {}, make("td", {}, query || "–"), make("td", {}, source || "–"),
      make("td", { class: "n" }, count(images)), make("td", { class: "n" }, percent(wrong))));
  const head = make("tr", {}, make("th", {}, "Search"), make("th", {}, "Source"),
    make("th", { class: "n" }, "Images"), make("th", { class: "n" }, "Look wrong"));
  return [make("h2", { class: "part" }, "Searches"),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Searches" },
      make("table", {}, head, rows))];
}

function doubtPlot(page, images) {
  const most = Math.max(...page.histogram);
  const columns = page.histogram.map((number, at) =>
    make("i", { title: `${at / 10} to ${(at + 1) / 10}: ${several(number, "image", "images")}` },
      make("b", { class: "s0", style: { height: `${(100 * number) / most}%` } })));
  const ticks = ["0", "0.5", "1"].map((text, at) =>
    make("small", { class: ["first", "", "last"][at], style: { left: `${50 * at}%` } }, text));
  const label = `How probable it is that labels are wrong: ${page.doubtful} of ${images} above one half`;
  return make("div", { class: "plot", role: "img", "aria-label": label },
    make("div", { class: "columns" }, columns), make("div", { class: "ticks" }, ticks));
}

function showClass(label, page) {
  const classes = data.classes;
  const [name, images, wrong, low, high, weight, held, ...accuracies] = classes.rows[label];
  const doubtful = page.cards.filter((card) => card.right < 0.5);
  const trusted = page.cards.filter((card) => card.right >= 0.5).reverse();
  const step = (to, text) =>
    to >= 0 && to < classes.rows.length && classes.rows[to][1]
      ? make("a", { href: `#/class/${to}`, "aria-label": `${text} class: ${classes.rows[to][0]}` }, text)
      : null;
  const facts = [`${percent(low)} to ${percent(high)}, with 95 % confidence`, `mean weight ${times(weight)}×`];
  if (page.classWeight !== null) facts.push(`since the class is ${page.classWeight > 1 ? "small" : "large"}, each counts ${times(page.classWeight)}×`);
  const told = { baseline: "plain training", urnet: "URNet" };
  classes.models.forEach((model, at) => {
    if (accuracies[at] !== null) facts.push(`${told[model] || model} right ${percent(accuracies[at])} of ${count(held)}`);
  });
  view.replaceChildren(
    make("p", { class: "way" }, make("a", { href: "#classes" }, "← Report"), step(label - 1, "Previous"), step(label + 1, "Next")),
    make("h1", { tabindex: -1 }, name),
    make("p", { class: "lead" }, make("b", { class: "doubt" }, percent(wrong)), ` of ${several(images, "image", "images")} look wrong.`),
    note(`${facts.join("; ")}.`),
    make("div", { class: "grid" },
      make("div", { class: "panel" }, make("h2", { class: "part" }, "What the models call its images"), mixUps(label, page, images),
        page.in.length
          ? note("Images of other classes that are called ", make("b", {}, name), ": ",
              page.in.flatMap(([other, number], at) => [at ? ", " : "", classLink(other), ` ${count(number)}`]), ".")
          : null),
      make("div", { class: "panel" }, make("h2", { class: "part" }, "How probable it is that a label is wrong"), doubtPlot(page, images),
        note(`${several(page.doubtful, "image is", "images are")} above one half.`))),
    ...wordsOf(page), ...searchesOf(page),
    make("h2", { class: "part" }, `Most doubtful (${doubtful.length} of ${count(page.doubtful)})`),
    doubtful.length ? make("div", { class: "cards" }, doubtful.map(cardOf)) : note("None."),
    make("h2", { class: "part" }, "Most trusted"),
    trusted.length ? make("div", { class: "cards" }, trusted.map(cardOf)) : note("None."),
    make("p", { class: "judge" }, "To judge these images, one key each, start ", make("code", {}, "urnet review"), "; where it runs already, ",
      make("a", { href: `${report.dataset.review}#/class/${encodeURIComponent(name)}`, target: "_blank", rel: "noopener noreferrer" }, "open them there"), "."),
    command(`urnet review --workdir DIR --at ${quoted(`class/${name}`)}`),
  );
  prepareCommands(view);
  document.title = `${name} – ${title}`;
}
