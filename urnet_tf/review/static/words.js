// Numbers and states in words.

export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  if (share > 0 && share < 0.01) return "< 1 %";
  return `${Math.round(100 * share)} %`;
}

export function count(number, what, many = `${what}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? what : many}`;
}

// What was said of an entry: a kind for the style sheet, a sign, and words.
export function stateOf(item) {
  const { truth } = item;
  if (truth === null) return { kind: "open", sign: "", text: "" };
  if (truth === "none") return { kind: "nothing", sign: "✕", text: "none of these" };
  if (truth === "unsure") return { kind: "unsure", sign: "?", text: "unsure" };
  if (item.labels.length === 1 && item.labels[0].label === truth) return { kind: "right", sign: "✓", text: "right" };
  return { kind: "other", sign: "→", text: item.truth_name };
}
