// A concept: what it stands for, for which classes, where it is, and what happens without it.
import { bars, graph, histogram } from "./charts.js";
import { h, number, part, percent, soon, toggle } from "./dom.js";
import { conceptTitle, link, needsModel, notebook, outputBars, QUANTITIES, sampleTiles, working } from "./parts.js";
import { snippetLine, stripOf, stripSize } from "./view_concepts.js";

const WAYS = [
  { key: "0", name: "without it", how: "scale", value: 0 }, { key: "0.5", name: "half", how: "scale", value: 0.5 },
  { key: "2", name: "doubled", how: "scale", value: 2 }, { key: "-1", name: "turned", how: "scale", value: -1 },
];

// The page of a concept.
export async function conceptView(ctx) {
  const concept = Number(ctx.place.concept || 0);
  const { layer, quantity, store } = ctx;
  const start = `${ctx.base}/layers/${layer}/concepts/${concept}`;
  const page = await ctx.data.json(`${start}?quantity=${quantity}`);
  const first = page.names[0];
  const sample = ctx.place.input !== undefined ? ctx.place.input : String(page.references[0].samples[0] ?? "");
  const isDead = page.share === 0;
  const dead = () => h("p", { class: "note" }, `Its ${quantity} is zero at all samples: it shows nothing, and serves no class.`);
  return h("div", {},
    h("p", { class: "muted" }, link(ctx, { view: "concepts" }, `← concepts of ${store.layers[layer].name}`)),
    h("h1", {}, conceptTitle(concept, first && first.name)),
    page.names.map((found) => h("p", { class: "muted" }, `“${found.name}”, named by ${found.author}`,
      found.score !== null && ` (AUC ${number(found.score)})`)),
    h("p", { class: "sentence" }, page.sentence),
    h("div", { class: "tools" }, toggle("quantity", QUANTITIES, quantity, (chosen) => ctx.go({ quantity: chosen }))),
    notebook(ctx, { view: "concept", layer, quantity: "relevance", number: concept }),
    h("div", { class: "parts" },
      part({ title: "Samples that show it", wide: true, note: `By their shares of the layer's ${quantity}, which stand below: the largest, and others for comparison.` },
        isDead ? dead() : references(ctx, page, concept)),
      part({ title: "For which classes", note: `How the concept's ${quantity} is shared among classes, which all count alike${page.classes.some(isAgainst) ? "; negative: it speaks against the class" : ""}.` },
        isDead ? dead() : bars(page.classes.map((found) => ({
          name: found.name, key: found.target, value: isAgainst(found) ? -found.portion : found.portion, title: `${found.name}: ${percent(found.share)} of the layer`,
        })), { label: "classes", format: percent, onPick: (item) => ctx.go({ view: "concepts", target: item.key }) })),
      part({ title: "How strong it is", note: `Along: its raw ${quantity} (no shares); up: how many samples have it.` }, soon(markOf(ctx, concept, sample), (marks) => histogram({
        ...page.histogram, marks, label: `values of concept ${concept} over all samples`, format: number,
      }))),
      part({ title: "What happens without it", id: "without" }, without(ctx, page, concept, sample)),
      part({ title: "Concepts like it" }, soon(ctx.data.json(`${start}/neighbours`), (found) => neighbours(ctx, found))),
      part({ title: "What it is made of, and where it goes", wide: true }, made(ctx, concept, sample)),
      part("Its place on the map", h("p", {}, link(ctx, { view: "maps", concept }, `Show it on the map of ${store.layers[layer].name}`))),
      store.kind === "texts" && part("Words", soon(ctx.data.json(`${start}/words?quantity=${quantity}`), (found) => h("div", {},
        h("p", { class: "muted" }, `mean ${number(found.mean)}, standard deviation ${number(found.deviation)}; scores in standard deviations`),
        bars(found.words.map((word) => ({ name: `${word.word} (${word.count})`, value: word.score })), { label: "words", format: number })))),
      page.trust && part("Trust report", h("p", {}, page.trust))));
}

const isAgainst = (found) => found.share < 0;

function references(ctx, page, concept) {
  if (ctx.store.kind === "texts" && ctx.store.of_positions) {
    return soon(ctx.data.json(`${ctx.base}/layers/${ctx.layer}/snippets?concepts=${concept}&quantity=${ctx.quantity}&k=20`),
      (found) => h("div", { class: "snippets" }, found.concepts[0].map((snippet) => snippetLine(ctx, snippet))));
  }
  const kinds = ["heatmap", "crop"];
  const groups = page.references.map((group) => h("div", {}, h("h3", {}, group.name === "strongest" ? "largest share" : group.name), sampleTiles(ctx, group.samples, {
    captions: group.values.map(percent), size: group.name === "strongest" ? 80 : 48, changes: { layer: ctx.layer, concept },
  }), group.name === "strongest" && ctx.store.has_pictures && kinds.map((kind) => stripOrNothing(ctx, concept, kind))));
  return h("div", { class: "reference-groups" }, groups[0], h("div", {}, groups.slice(1)));
}

function stripOrNothing(ctx, concept, kind) {
  if (!ctx.store.has_model && !ctx.isStatic) return null;
  const strip = stripOf(ctx, [concept], 0, { kind, ...stripSize(ctx), target: "" });
  return h("div", {}, h("p", { class: "strip-caption muted" }, kind === "heatmap" ? "where it is relevant" : "what its strongest neuron sees"), strip);
}

// Where the clicked sample lies among all values.
async function markOf(ctx, concept, sample) {
  if (!/^\d+$/.test(sample) || ctx.store.keep === "top" || ctx.store.of_positions) return [];
  try {
    const { values } = await ctx.data.floats(`${ctx.base}/samples/${sample}/layers/${ctx.layer}/values?quantity=${ctx.quantity}`);
    return [{ value: values[concept], name: `sample ${sample}` }];
  } catch {
    return [];
  }
}

function without(ctx, page, concept, sample) {
  const told = page.effect && effectOf(page.effect);
  if (!ctx.store.has_model) {
    return h("div", {}, told || h("p", {}, "No trust report says how much answers fall without it."), needsModel());
  }
  if (sample === "") return told;
  const way = WAYS.find(({ key }) => key === ctx.place.way) || WAYS[0];
  const set = ctx.place.set;
  const unit = set !== undefined ? `set:${Number(set)}` : `${way.how}:${way.value}`;
  const path = `${ctx.base}/inputs/${sample}/manipulated?units=${ctx.layer}:${concept}:${unit}`;
  return h("div", {}, told,
    h("div", { class: "tools" }, toggle("what to do with it", WAYS, set !== undefined ? "" : way.key, (key) => ctx.go({ way: key, set: undefined }, { replace: true })),
      h("label", { class: "choice" }, h("span", {}, "set it to"), h("input", {
        type: "number", step: "any", value: set ?? "", size: 6, "data-keep": "set",
        onchange: (event) => ctx.go({ set: event.target.value === "" ? undefined : event.target.value }, { replace: true }),
      }))),
    h("p", { class: "muted" }, "in ", link(ctx, { view: "sample", input: sample, concept }, `sample ${sample}`)),
    working(ctx, (onProgress) => ctx.data.both(path, onProgress), ({ document: found }) => h("div", { class: "two" },
      h("div", {}, h("h3", {}, "as it is"), outputBars(bars, found.before.slice(0, 5), { label: "before" })),
      h("div", {}, h("h3", {}, set !== undefined ? `set to ${set}` : way.name), outputBars(bars, found.after.slice(0, 5), { label: "after" })))));
}

// What the trust report measured.
function effectOf({ mean, lower, upper, control, is_clear: isClear }) {
  const isRise = mean < 0;
  const told = (fall) => number(isRise && fall !== null ? -fall : fall);
  const [least, most] = isRise ? [upper, lower] : [lower, upper];
  return h("p", {}, `Where it is most relevant, the output of the answer (a logit, unless the model ends with something else) ${isRise ? "rises" : "falls"} by ${told(mean)} `
    + `without it, on average (${told(least)} to ${told(most)}); without a concept at random by ${told(control)}. `
    + `${isClear ? "A clear difference" : "No clear difference"}, by the trust report.`);
}

function neighbours(ctx, found) {
  const group = (title, others) => others.length > 0 && h("div", {}, h("h3", {}, title), bars(others.map((other) => ({
    name: `${ctx.store.layers[other.layer].name} ${conceptTitle(other.concept, other.name)}`, value: other.correlation, key: other,
  })), { label: title, format: number, max: 1, onPick: (item) => ctx.go({ view: "concept", layer: item.key.layer, concept: item.key.concept }) }));
  const shown = [group("active alike", found.by_activation), group("relevant alike", found.by_relevance), group("active alike in other layers", found.elsewhere)];
  return h("div", {}, h("p", { class: "muted" }, `correlation over ${found.samples} samples`), shown.some(Boolean) ? shown : h("p", {}, "None."));
}

function made(ctx, concept, sample) {
  if (!ctx.store.has_model || sample === "") return needsModel();
  return h("div", {}, h("p", { class: "muted" }, `In sample ${sample}. Numbers are shares of what a concept gets from a layer, or gives to the next.`),
    working(ctx, (onProgress) => ctx.data.later(`${ctx.base}/inputs/${sample}/layers/${ctx.layer}/concepts/${concept}/graph`, onProgress),
      (found) => drawGraph(ctx, found), { height: 240 }));
}

function drawGraph(ctx, found) {
  const layers = [...new Set(found.nodes.map((node) => node.layer))].sort((a, b) => a - b);
  const keys = found.nodes.map((node, i) => `${i}`);
  const levels = layers.map((layer) => found.nodes.flatMap((node, i) => (node.layer === layer ? [{
    key: keys[i], name: `${ctx.store.layers[layer].name} ${conceptTitle(node.concept, node.name)}`,
  }] : [])));
  const rest = found.nodes.flatMap((node, i) => (found.remainders[i] > 0.005 ? [`${ctx.store.layers[node.layer].name} ${node.concept}: ${percent(found.remainders[i])}`] : []));
  return h("div", {}, graph(levels, found.edges.map((edge) => ({ from: keys[edge.source], to: keys[edge.sink], weight: edge.share })), {
    label: "what the concept is made of, and where it goes",
    onPick: (item) => {
      const node = found.nodes[Number(item.key)];
      ctx.go({ view: "concept", layer: node.layer, concept: node.concept });
    },
  }), rest.length > 0 && h("p", { class: "muted" }, `Held by concepts that are not shown (remainder): ${rest.join("; ")}`));
}

