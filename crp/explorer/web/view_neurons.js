// Neurons: rankings, what is left of the model without them, and what it answers when they are set to other values.
import { bars, curves } from "./charts.js";
import { choice, count, fill, h, number, part, percent, soon, toggle } from "./dom.js";
import { makeIt } from "./making.js";
import { conceptTitle, heatmap, link, needsModel, outputBars, table, working } from "./parts.js";

const COLOURS = ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)", "var(--c8)"];
const SHOWN = 30;

// Rankings side by side, ablations, and manipulation.
export async function neuronsView(ctx) {
  const { store } = ctx;
  if (store.keep === "top") return h("div", {}, h("h1", {}, "Neurons"), h("p", { class: "note" }, "This store was swept with --keep top, so it has no matrices to rank units by."));
  const found = await ctx.data.json(`${ctx.base}/rankings`);
  const own = found.rankings.filter((ranking) => ranking.layers.includes(ctx.layer));
  return h("div", {}, h("h1", {}, `Neurons of ${store.layers[ctx.layer].name}`),
    h("div", { class: "parts" },
      part({ title: "Rankings", wide: true, note: "Which units (here: concepts) matter most, to the answers or for what labels tell: the place of each, and its score. Rankings are kept in the store." }, addRanking(ctx, found.methods), rankings(ctx, own)),
      part({ title: "Without them", wide: true, note: "Units are taken away in the order of rankings: the most important first (lines), the least important first (dashed); grey: random orders." }, ablation(ctx, own)),
      part({ title: "With other values", wide: true, note: "Set units, and watch the answers and the heatmap." }, await manipulation(ctx, own))));
}

function addRanking(ctx, methods) {
  const method = ctx.place.method || methods[0];
  return h("div", { class: "tools" }, choice("add a ranking by", methods.map((key) => ({ key, name: key.replace(/_/g, " ") })), method, (key) => ctx.go({ method: key }, { replace: true })),
    makeIt(ctx, { kind: "ranking", layer: ctx.layer, method }, "Rank", ""));
}

const title = (ctx, ranking) => `${ranking.method.replace(/_/g, " ")}${ranking.layers.length > 1 ? ` (${ranking.layers.length} layers)` : ""}${ranking.options.labels === "given" ? ", own labels" : ""}`;

function rankings(ctx, own) {
  if (!own.length) return h("p", { class: "note" }, "The store keeps no ranking of this layer yet.");
  const classes = [...new Set(own.flatMap((ranking) => ranking.classes))];
  const target = ctx.place.of || "";
  const lists = own.map((ranking) => (target && ranking.classes.includes(target) ? ranking.top_of_classes[ranking.classes.indexOf(target)] : ranking.top));
  const place = own.map((_, i) => new Map(lists[i].map((unit, at) => [`${unit.layer}:${unit.concept}`, at])));
  const by = Math.max(0, own.findIndex((ranking) => ranking.key === ctx.place.sort));
  const rows = lists[by].slice(0, SHOWN);
  const cell = (i) => (row) => {
    const at = place[i].get(`${row.layer}:${row.concept}`);
    if (at === undefined) return "–";
    const unit = lists[i][at];
    return h("span", { title: unit.lower === null ? "" : `interval of 95 %: ${number(unit.lower)} to ${number(unit.upper)}` }, `${at + 1}. `, h("span", { class: "muted" }, number(unit.score)));
  };
  return h("div", {}, classes.length > 0 && h("div", { class: "tools" }, choice("for", [{ key: "", name: "all classes" }, ...classes.map((name) => ({ key: name, name }))], target, (of) => ctx.go({ of }))),
    table([
      { key: "unit", name: "unit", sorts: false, cell: (row) => link(ctx, { view: "concept", layer: row.layer, concept: row.concept }, `${ctx.store.layers[row.layer].name} ${row.concept}`) },
      ...own.map((ranking, i) => ({ key: ranking.key, name: title(ctx, ranking), title: `${ranking.rows} rows; ${JSON.stringify(ranking.options)}`, cell: cell(i) })),
      ...(!ctx.store.has_model ? [] : [{ key: "set", name: "", sorts: false, cell: (row) => h("button", { type: "button", class: "pill", "data-keep": `set ${row.layer}:${row.concept}`, "aria-label": `set unit ${row.concept}`, onclick: () => {
        const units = readUnits(ctx.place.units);
        if (!units.some((unit) => unit.layer === row.layer && unit.concept === row.concept)) ctx.go({ units: writeUnits([...units, { layer: row.layer, concept: row.concept, how: "set", value: 0 }]) });
      } }, "set") }]),
    ], rows, { label: "rankings", sort: own[by].key, onSort: (key) => ctx.go({ sort: key }) }),
    rows.length < own[by].units && h("p", { class: "muted" }, `the first ${rows.length} of ${count(own[by].units, "unit")}`),
    own.filter((ranking) => ranking.held_out).map((ranking) => h("p", { class: "muted" }, `${title(ctx, ranking)}, held out: ${ranking.held_out}`)));
}

function ablation(ctx, own) {
  if (!ctx.store.has_model && !ctx.isStatic) return needsModel();
  const same = own.filter((ranking) => ranking.layers.length === 1 && ranking.method !== "svcca").slice(0, 6);
  if (!same.length) return h("p", { class: "muted" }, "Rank units first.");
  const keys = same.map((ranking) => ranking.key);
  return soon(ctx.data.json(`${ctx.base}/ablation?rankings=${keys.join(",")}`), (found) => (found.curves.length ? drawAblation(ctx, found) : makeIt(ctx, { kind: "ablation", layer: ctx.layer, rankings: keys }, "Take units away", `No ablation by ${keys.length === 1 ? "this ranking" : `these ${keys.length} rankings`} has been made yet.`)));
}

function drawAblation(ctx, found) {
  const ways = Object.keys(found.lowest);
  const way = ways.includes(ctx.place.by) ? ctx.place.by : ways[0];
  const names = [...new Set(found.curves.map((curve) => curve.ranking))];
  const series = found.curves.filter((curve) => curve.by === way).map((curve) => ({
    name: `${curve.ranking}, ${curve.order.replace(" important", "")}`, x: found.fractions, y: curve.scores, dashed: curve.order.startsWith("least"), colour: COLOURS[names.indexOf(curve.ranking) % COLOURS.length],
  }));
  return h("div", {}, h("div", { class: "tools" }, toggle("set to", ways.map((key) => ({ key, name: `set to ${key}` })), way, (by) => ctx.go({ by }, { replace: true }))),
    curves(series, { label: "what is left of the model", x: "share of the units taken away", y: found.metric, bands: [{ name: "random orders", x: found.fractions, lower: found.lowest[way], upper: found.highest[way] }] }),
    h("p", { class: "muted" }, `${found.samples} samples`));
}

const readUnits = (text) => (text ? text.split(",").map((one) => {
  const [layer, concept, how, value] = one.split(":");
  return { layer: Number(layer), concept: Number(concept), how, value: Number(value) };
}) : []);
const writeUnits = (units) => units.map(({ layer, concept, how, value }) => `${layer}:${concept}:${how}:${Number(value.toFixed(6))}`).join(",");

// Sliders of units, and what the model answers; sets that are kept are rows below.
async function manipulation(ctx, own) {
  if (!ctx.store.has_model) return needsModel();
  const units = readUnits(ctx.place.units).filter((unit) => ctx.store.layers[unit.layer]);
  const input = ctx.place.input ?? "0";
  const sets = ctx.place.sets ? ctx.place.sets.split(";") : [];
  const ranges = units.length ? (await ctx.data.json(`${ctx.base}/ranges?units=${units.map((unit) => `${unit.layer}:${unit.concept}`).join(",")}`)).units : [];
  const answers = h("div", {});
  let timer = 0;
  const show = (changed) => {
    ctx.note({ units: writeUnits(changed) });
    clearTimeout(timer);
    timer = setTimeout(() => fill(answers, changed.length ? answer(ctx, input, writeUnits(changed)) : h("p", { class: "muted" }, "No unit is set.")), 120);
  };
  const slider = (unit, i) => {
    const { least, mean, most } = ranges[i];
    const low = Math.min(least, 0, unit.value);
    const high = Math.max(most, unit.value, low + 1e-6);
    const value = h("output", {}, number(unit.value));
    const name = `${ctx.store.layers[unit.layer].name} ${unit.concept}`;
    const range = h("input", { type: "range", min: low, max: high, step: (high - low) / 200, value: unit.value, "aria-label": name, "data-keep": `slider ${i}`, oninput: (event) => {
      unit.value = Number(event.target.value);
      value.textContent = number(unit.value);
      show(units);
    } });
    range.value = unit.value;
    const jump = (to, text) => h("button", { type: "button", class: "pill", title: number(to), "aria-label": `set ${name} to its ${text}`, onclick: () => { unit.value = to; range.value = to; value.textContent = number(to); show(units); } }, text);
    return h("div", { class: "slider" }, link(ctx, { view: "concept", layer: unit.layer, concept: unit.concept }, conceptTitle(unit.concept, "")), range, value,
      h("span", {}, jump(least, "min"), jump(mean, "mean"), jump(most, "max"), h("button", { type: "button", class: "pill", "data-keep": `drop ${i}`, "aria-label": `leave ${name} as it is`, onclick: () => ctx.go({ units: writeUnits(units.filter((other) => other !== unit)) }) }, "×")));
  };
  const field = h("input", { type: "number", min: 0, max: ctx.store.layers[ctx.layer].concepts - 1, size: 6, "data-keep": "unit", "aria-label": "unit to add" });
  show(units);
  return h("div", {}, h("div", { class: "tools" },
    h("label", { class: "choice" }, h("span", {}, "sample"), h("input", { type: "number", min: 0, value: input, size: 7, "data-keep": "input", onchange: (event) => ctx.go({ input: event.target.value }) })),
    h("label", { class: "choice" }, h("span", {}, "add unit"), field), h("button", { type: "button", "data-keep": "add", onclick: () => field.value !== "" && ctx.go({ units: writeUnits([...units, { layer: ctx.layer, concept: Number(field.value), how: "set", value: 0 }]) }) }, "Add"),
    own.length > 0 && h("button", { type: "button", "data-keep": "first", onclick: () => ctx.go({ units: writeUnits(own[0].top.slice(0, 3).map((unit) => ({ layer: unit.layer, concept: unit.concept, how: "set", value: 0 }))) }) }, "The first three"),
    units.length > 0 && h("button", { type: "button", "data-keep": "keep", onclick: () => ctx.go({ sets: [...sets, writeUnits(units)].join(";") }) }, "Keep this set as a row")),
  h("div", { class: "sliders" }, units.map(slider)), answers,
  sets.length > 0 && h("div", {}, h("h3", {}, "Sets"), sets.map((set, i) => h("div", { class: "part" },
    h("p", {}, readUnits(set).map((unit) => `${ctx.store.layers[unit.layer].name} ${unit.concept} = ${number(unit.value)}`).join(", "), " ",
      h("button", { type: "button", class: "pill", "data-keep": `set ${i}`, onclick: () => ctx.go({ sets: sets.filter((_, other) => other !== i).join(";") }) }, "remove")),
    answer(ctx, input, set, true)))));
}

function answer(ctx, input, units, isShort = false) {
  if (ctx.store.kind === "texts") return h("p", { class: "note" }, link(ctx, { view: "text", units }, "See what the model writes with these values"));
  return working(ctx, (onProgress) => Promise.all([ctx.data.both(`${ctx.base}/inputs/${input}/manipulated?units=${units}`, onProgress), ctx.store.has_pictures ? ctx.data.picture(`${ctx.base}/inputs/${input}/picture`) : null]),
    ([{ document: found, numbers }, url]) => h("div", { class: "two" },
      h("div", {}, h("h3", {}, "as it is"), outputBars(bars, found.before.slice(0, isShort ? 3 : 8), { label: "before" })),
      h("div", {}, h("h3", {}, "with these values"), outputBars(bars, found.after.slice(0, isShort ? 3 : 8), { label: "after" }), h("p", { class: "muted" }, change(found))),
      !isShort && heatmap(ctx, { url, values: numbers, height: found.height, width: found.width, label: "heatmap with these values" })));
}

function change({ before, after }) {
  const top = after.reduce((best, output) => (output.value > best.value ? output : best), after[0]);
  const first = before[0];
  const now = after.find((output) => output.target === first.target);
  return top.target === first.target ? `It still answers ${first.name} (${percent(first.probability)}, now ${percent(now.probability)}).` : `It answers ${top.name} instead of ${first.name}.`;
}
