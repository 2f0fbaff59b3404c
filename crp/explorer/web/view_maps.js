// Maps of layers: concepts side by side where groups, or inputs, do the same to them.
import { categorical, legend } from "./charts.js";
import { choice, h, number, part, toggle } from "./dom.js";
import { conceptTitle, link, QUANTITIES, working } from "./parts.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const SIZE = 200;
const LEGIBLE = 5; // the least radius of a dot in which a number can be read

// Topographic maps of groups, and the response map of a sample.
export async function mapsView(ctx) {
  const { store, layer, quantity } = ctx;
  const name = store.layers[layer].name;
  if (store.keep === "top") return h("div", {}, h("h1", {}, `Maps of ${name}`), h("p", { class: "note" }, "This store was swept with --keep top, so it has no matrices to map."));
  const page = await ctx.data.json(`${ctx.base}/layers/${layer}?quantity=${quantity}`);
  const names = new Map(page.names.map((found) => [found.concept, found.name]));
  const groups = store.classes;
  const first = ctx.place.group === undefined ? groups[0]?.target : Number(ctx.place.group);
  const index = Math.max(0, groups.findIndex((found) => found.target === first));
  return h("div", {}, h("h1", {}, `Maps of ${name}`),
    h("p", { class: "muted" }, "A dot is a concept; those that the same classes use lie side by side. Choose one to open it."),
    h("div", { class: "tools" }, toggle("quantity", QUANTITIES, quantity, (key) => ctx.go({ quantity: key })),
      choice("class", groups.map((found) => ({ key: found.target, name: found.name })), first, (group) => ctx.go({ group }))),
    isMappable(store.layers[layer]) ? working(ctx, (onProgress) => ctx.data.floatsLater(`${ctx.base}/layers/${layer}/map?quantity=${quantity}`, onProgress), (found) => {
      const count = store.layers[layer].concepts;
      const row = (i) => found.values.subarray(i * count, (i + 1) * count);
      const groupCount = (found.values.length / count - 2) / 2;
      const dots = Array.from({ length: count }, (_, i) => ({ x: row(0)[i], y: 1 - row(1)[i], layer, concept: i, name: names.get(i) }));
      return h("div", { class: "two" },
        part(`${quantity} in ${groups[index]?.name ?? "all samples"}`, dotMap(ctx, dots, row(2 + index), `map of ${name} for ${groups[index]?.name}`)),
        part("compared with the average class", dotMap(ctx, dots, row(2 + groupCount + index), `what sets ${groups[index]?.name} apart on the map of ${name}`)));
    }, { height: 320, isOfModel: false }) : h("p", { class: "note" }, "This layer has too few concepts for a map, or too many."),
    part({ title: "Response map", wide: true, note: "Concepts of several layers; side by side if they respond alike over the samples. Colours: how strongly each responds to one sample, from its lowest to its highest." }, responseMap(ctx)));
}

const isMappable = (layer) => layer.concepts > 3 && layer.concepts <= 4096;

// Concepts as dots, red where a value is positive and blue where it is negative.
function dotMap(ctx, dots, values, label, { isShare = false } = {}) {
  const svg = document.createElementNS(NAMESPACE, "svg");
  svg.setAttribute("viewBox", `0 0 ${SIZE} ${SIZE}`);
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", label);
  const most = values.reduce((found, value) => Math.max(found, Math.abs(value) || 0), 0) || 1;
  const radius = Math.max(1.2, Math.min(7, (0.42 * SIZE) / Math.sqrt(dots.length)));
  const told = h("p", { class: "muted", role: "status" }, "Point at a dot, or move with the arrow keys, to see which concept it is.");
  const marked = ctx.place.concept === undefined ? -1 : Number(ctx.place.concept);
  const layers = [...new Set(dots.map((dot) => dot.layer))];
  const isOfSeveral = layers.length > 1;
  const isNumbered = radius >= LEGIBLE && !isOfSeveral;
  const outline = (dot) => (isOfSeveral ? categorical(layers.indexOf(dot.layer)) : "var(--grey)");
  const circles = dots.map((dot, i) => {
    const circle = document.createElementNS(NAMESPACE, "circle");
    const value = values[i];
    const part_ = Math.min(1, Math.abs(value) / most) || 0;
    const text = `${ctx.store.layers[dot.layer].name} ${conceptTitle(dot.concept, dot.name)}: ${isShare ? `${Math.round(100 * value)}% of its range` : number(value)}`;
    const isMarked = dot.layer === ctx.layer && dot.concept === marked;
    for (const [name, set] of Object.entries({
      cx: 8 + dot.x * (SIZE - 16), cy: 8 + dot.y * (SIZE - 16), r: isMarked ? 1.5 * radius : radius, fill: value ? (value < 0 ? "var(--negative)" : "var(--positive)") : "var(--grey)",
      "fill-opacity": 0.08 + 0.92 * part_, stroke: isMarked ? "var(--text)" : outline(dot), "stroke-width": isMarked ? 1.6 : isOfSeveral ? 1 : 0.4, tabindex: i === (marked >= 0 ? marked : 0) ? 0 : -1, role: "link", "aria-label": text,
    })) circle.setAttribute(name, set);
    const open = () => ctx.go({ view: "concept", layer: dot.layer, concept: dot.concept });
    circle.addEventListener("click", open);
    circle.addEventListener("pointerenter", () => { told.textContent = text; });
    circle.addEventListener("focus", () => { told.textContent = text; });
    circle.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") open();
      const towards = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!towards) return;
      event.preventDefault();
      const next = nearest(dots, i, towards);
      if (next < 0) return;
      circle.setAttribute("tabindex", "-1");
      circles[next].setAttribute("tabindex", "0");
      circles[next].focus();
    });
    svg.append(circle);
    if (isNumbered) svg.append(numeral(dot, part_));
    return circle;
  });
  return h("div", {}, h("div", { class: "map-canvas" }, svg),
    isOfSeveral && legend(layers.map((i) => ({ name: `outline: ${ctx.store.layers[i].name}` }))),
    h("p", { class: "muted" }, isShare ? "faint 0%, red 100% of its range" : `red positive, blue negative, full at ±${number(most)}`, dots.some((dot) => dot.layer === ctx.layer && dot.concept === marked) && `; the ring is concept ${marked}`), told);
}

// The number of a concept, in its dot.
function numeral(dot, strength) {
  const text = document.createElementNS(NAMESPACE, "text");
  for (const [name, set] of Object.entries({
    x: 8 + dot.x * (SIZE - 16), y: 8 + dot.y * (SIZE - 16), class: strength > 0.55 ? "numeral on-dark" : "numeral", "aria-hidden": "true",
  })) text.setAttribute(name, set);
  text.textContent = dot.concept;
  return text;
}

// The dot that is next in a direction.
function nearest(dots, from, [dx, dy]) {
  let best = -1;
  let least = Infinity;
  dots.forEach((dot, i) => {
    const ahead = (dot.x - dots[from].x) * dx + (dot.y - dots[from].y) * dy;
    const aside = Math.abs((dot.x - dots[from].x) * dy) + Math.abs((dot.y - dots[from].y) * dx);
    if (i !== from && ahead > 1e-6 && ahead + 2 * aside < least) [best, least] = [i, ahead + 2 * aside];
  });
  return best;
}

function responseMap(ctx) {
  const { store } = ctx;
  const small = store.layers.map((layer, i) => i).filter((i) => store.layers[i].concepts <= 512).slice(-3);
  const layers = ctx.place.layers ? ctx.place.layers.split(",").map(Number).filter((i) => store.layers[i]) : small;
  if (!layers.length) return h("p", { class: "note" }, "Choose layers with at most 2048 concepts in all.");
  const input = ctx.place.input ?? "0";
  const boxes = h("div", { class: "tools" }, store.layers.map((layer, i) => h("label", { class: "choice" }, h("input", { type: "checkbox", checked: layers.includes(i), "data-keep": `map of ${i}`,
    onchange: (event) => ctx.go({ layers: (event.target.checked ? [...layers, i].sort((a, b) => a - b) : layers.filter((other) => other !== i)).join(",") }) }), h("span", {}, layer.name))),
  h("label", { class: "choice" }, h("span", {}, "sample"), h("input", { type: "number", min: 0, value: input, size: 7, "data-keep": "input", onchange: (event) => ctx.go({ input: event.target.value }) })));
  return h("div", {}, boxes, working(ctx, async (onProgress) => {
    const found = await ctx.data.floatsLater(`${ctx.base}/response-map?layers=${layers.join(",")}`, onProgress);
    const values = await Promise.all(layers.map((i) => ctx.data.floats(`${ctx.base}/samples/${input}/layers/${i}/values?quantity=activation`)));
    return { found, values };
  }, ({ found, values }) => {
    const count = found.values.length / 6;
    const row = (i) => found.values.subarray(i * count, (i + 1) * count);
    const dots = Array.from({ length: count }, (_, i) => ({ x: (row(0)[i] + 1) / 2, y: (1 - row(1)[i]) / 2, layer: row(2)[i], concept: row(3)[i] }));
    const responses = Float32Array.from(dots, (dot, i) => {
      const value = values[layers.indexOf(dot.layer)].values[dot.concept];
      return Math.min(1, Math.max(0, (value - row(4)[i]) / (row(5)[i] - row(4)[i])));
    });
    return h("div", {}, dotMap(ctx, dots, responses, `response map of sample ${input}`, { isShare: true }), h("p", {}, link(ctx, { view: "sample", input }, `sample ${input}`)));
  }, { height: 320, isOfModel: false }));
}
