// What the judgements tell so far.

import { html, nothing } from "./lit-html/lit-html.js";
import { app, say } from "./state.js";
import { count, percent } from "./words.js";

function interval(value, label) {
  const left = 100 * value.low;
  const width = Math.max(100 * (value.high - value.low), 1);
  return html`
    <span class="interval" role="img" aria-label=${`${label}: ${percent(value.share)}, 95 % interval ${percent(value.low)} to ${percent(value.high)}`}>
      <i .style=${`left:${left}%;width:${width}%`}></i><b .style=${`left:${100 * value.share}%`}></b>
    </span>`;
}

export function panelView() {
  const { progress } = app;
  if (!progress) return html`<p class="soft">Counting …</p>`;
  const { wrong } = progress;
  return html`
    <section class="so-far" aria-label="What your judgements tell so far">
      <h2>So far</h2>
      <p class="big-number"><b>${progress.judged.toLocaleString("en")}</b> of ${progress.images.toLocaleString("en")} judged</p>
      ${tallies(progress.counts)}
      ${progress.elsewhere ? html`<p class="soft">${count(progress.elsewhere, "more judged image")} ${progress.elsewhere === 1 ? "is" : "are"} not in training: set aside as test list or as none of the classes, or not in this crawl.</p>` : nothing}
      ${progress.conflicts ? html`<p class="soft">Of ${count(progress.conflicts, "image")} people say different things; the latest word holds.</p>` : nothing}

      <h3>Wrong labels</h3>
      <p class="figure"><b>${percent(wrong.share)}</b> <span>${percent(wrong.low)} – ${percent(wrong.high)}</span></p>
      ${interval(wrong, "Share of wrong labels")}
      ${enough(wrong)}

      <h3>The models name the right class</h3>
      ${progress.accuracy
        ? html`<p class="figure"><b>${percent(progress.accuracy.share)}</b> <span>${percent(progress.accuracy.low)} – ${percent(progress.accuracy.high)}</span></p>
            ${interval(progress.accuracy, "Share that the models name rightly")}
            <p class="soft">${basis(progress.accuracy, "that show a class")}</p>`
        : html`<p class="soft">Told after five judged images that show a class.</p>`}

      <h3>Doubt finds wrong labels</h3>
      ${progress.doubt
        ? html`<p class="figure"><b>${progress.doubt.share.toFixed(2)}</b> <span>${progress.doubt.low.toFixed(2)} – ${progress.doubt.high.toFixed(2)}</span></p>
            ${interval(progress.doubt, "Area under the ROC curve")}
            <p class="soft">AUROC: 1 is perfect, 0.5 is chance. ${basis(progress.doubt)}</p>`
        : html`<p class="soft">Told after five wrong and five right labels.</p>`}

      ${progress.by_class.length ? byClass(progress.by_class) : nothing}
      ${progress.judged ? next() : nothing}
    </section>`;
}

function tallies(counts) {
  const kinds = [["right", "right"], ["wrong_class", "another class"], ["none_of_these", "none of these"], ["unsure", "unsure"]];
  const total = kinds.reduce((sum, [kind]) => sum + counts[kind], 0);
  if (!total) return nothing;
  return html`
    <div class="tally-bar" aria-hidden="true">
      ${kinds.map(([kind]) => html`<i class=${kind} .style=${`flex-grow:${counts[kind]}`}></i>`)}
    </div>
    <ul class="tallies">
      ${kinds.map(([kind, words]) => html`<li class=${kind}><i aria-hidden="true"></i><b>${counts[kind]}</b> ${words}</li>`)}
    </ul>`;
}

function enough(wrong) {
  const points = Math.round(100 * wrong.enough_width);
  if (wrong.enough) {
    return html`<p class="enough">✓ Enough: the interval is narrower than ${points} points. More of the random sample tells little more.</p>`;
  }
  const parts = [
    wrong.sampled ? count(wrong.sampled, "random image") : "",
    wrong.drawn ? `${count(wrong.drawn, "image")} of the most valuable` : "",
  ].filter(Boolean);
  const rests = parts.length ? `rests on ${parts.join(", ")}, and the models` : "is what the models say";
  return html`
    <p class="soft">This ${rests}. About <b>${wrong.missing.toLocaleString("en")}</b> more of the
      <a href="#/queue/random">random sample</a> make the interval narrower than ${points} points.</p>`;
}

function basis(value, which = "") {
  const images = `${count(value.images, "image")} ${which}`.trim();
  return value.at_random ? `Of ${images}, drawn at random.` : `Of ${images}, chosen ones: over all images it differs.`;
}

function byClass(entries) {
  return html`
    <h3>Wrong labels by class</h3>
    <ul class="class-shares">
      ${entries.map((entry) => html`
        <li><a href=${`#/class/:${entry.label}`}>${entry.name}</a> <span>${percent(entry.share)}</span>
          ${interval(entry, `Share of wrong labels of ${entry.name}`)}</li>`)}
    </ul>`;
}

function next() {
  const { command } = app.start;
  const copy = () => navigator.clipboard.writeText(command).then(() => say("Copied"), () => say(command));
  return html`
    <h3>Next</h3>
    <p class="soft">Every judgement is kept at once. The next run obeys them:</p>
    <p class="command"><code>${command}</code><button class="plain" @click=${copy}>Copy</button></p>`;
}
