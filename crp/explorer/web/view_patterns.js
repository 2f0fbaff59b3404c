// Patterns: groups of samples to which a layer responds alike.
import { bars, boxes, bubbles, histogram } from "./charts.js";
import { choice, count, fill, h, number, part, percent, soon, toggle, trouble } from "./dom.js";
import { makeIt } from "./making.js";
import { countRows, link, QUANTITIES, sampleTiles } from "./parts.js";

const COLOURS = ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"];
const STATISTICS = ["lower", "q1", "median", "q3", "upper", "mean"];
const NEAR_ZERO = 0.05;
const SHOWN_UNITS = 24;

// Cards of patterns, filters, and patterns that are compared.
export async function patternsView(ctx) {
  const kept = ctx.store.layers[ctx.layer].patterns;
  const quantity = ctx.place.quantity || (kept.includes("activation") || !kept.length ? "activation" : kept[0]);
  const name = ctx.store.layers[ctx.layer].name;
  const head = [h("h1", {}, `Patterns of ${name}`),
    h("p", { class: "muted" }, `Groups of samples to which the layer responds alike, by the ${quantity} of all its concepts; the most persistent first.`),
    h("div", { class: "tools" }, toggle("quantity", QUANTITIES, quantity, (key) => ctx.go({ quantity: key, pattern: undefined })))];
  if (ctx.store.keep === "top") return h("div", {}, head, h("p", { class: "note" }, "This store was swept with --keep top, so it has no matrices to find patterns in."));
  const page = await ctx.data.json(`${ctx.base}/layers/${ctx.layer}/patterns?quantity=${quantity}`);
  if (!page.found) {
    return h("div", {}, head, makeIt(ctx, { kind: "patterns", layer: ctx.layer, quantity }, "Find patterns", kept.length ? `The store keeps none by ${quantity}, but some by ${kept[0]}.` : "The store keeps no patterns of this layer yet."),
      kept.length > 0 && h("p", {}, link(ctx, { quantity: kept[0], pattern: undefined }, `Show those by ${kept[0]}`)),
      h("p", { class: "muted" }, "Or in Python, with options of your own: ", h("code", {}, page.how)), await ofSelected(ctx));
  }
  const [rows, found] = await Promise.all([
    ctx.data.integers(`${ctx.base}/rows?quantity=${quantity}`), ctx.data.floats(`${ctx.base}/layers/${ctx.layer}/patterns/rows?quantity=${quantity}`)]);
  const table = readRows(rows, found);
  const filter = readFilter(ctx.place);
  const chosen = table.filter((row) => passes(row, filter));
  const members = Array.from({ length: page.sizes.length }, () => []);
  for (const row of chosen) if (row.pattern >= 0) members[row.pattern].push(row);
  const all = Array.from({ length: page.sizes.length }, () => []);
  for (const row of table) if (row.pattern >= 0) all[row.pattern].push(row);
  const shown = ctx.place.pattern === undefined ? members.map((_, i) => i).filter((i) => members[i].length) : [Number(ctx.place.pattern)];
  return h("div", {}, head, filterBar(ctx, filter), await ofSelected(ctx),
    h("p", { class: "muted", role: "status" }, `${count(page.sizes.length, "pattern")} of ${countRows(ctx, table.length, table.length)}, of which ${percent(page.noise / Math.max(1, table.length))} are in none`),
    part({ title: "Labels and patterns", wide: true, note: "Rows are labels, columns patterns; a circle's area is how many samples of a label a pattern holds. Choose one to filter; with shift, one more." }, overview(ctx, members, filter)),
    await compared(ctx),
    ctx.place.pattern !== undefined && h("p", {}, link(ctx, { pattern: undefined }, "Show all patterns")),
    h("div", { class: "tools" }, choice("units", [{ key: "", name: "without near-zero ones" }, { key: "all", name: "all" }], ctx.place.units || "", (units) => ctx.go({ units })),
      choice("cards", [{ key: "", name: "compact" }, { key: "wide", name: "wide" }], ctx.place.cards || "", (cards) => ctx.go({ cards }))),
    h("div", { class: ctx.place.cards === "wide" || shown.length === 1 ? "" : "cards" }, shown.slice(0, 60).map((i) => card(ctx, quantity, i, page, members[i], all[i], filter))),
    shown.length > 60 && h("p", { class: "muted" }, `and ${shown.length - 60} patterns that are less persistent`));
}

function readRows(rows, found) {
  const length = rows.shape[0];
  return Array.from({ length }, (_, i) => ({
    row: i, sample: rows.values[4 * i], label: rows.values[4 * i + 1], prediction: rows.values[4 * i + 3],
    pattern: found.values[i], probability: found.values[length + i],
  }));
}

const list = (text) => (text ? String(text).split(",").map(Number) : []);
const readFilter = (place) => ({ labels: list(place.labels), predictions: list(place.predictions), correct: place.correct || "", samples: list(place.samples) });

function passes(row, { labels, predictions, correct }) {
  return (!labels.length || labels.includes(row.label)) && (!predictions.length || predictions.includes(row.prediction))
    && (!correct || (row.label === row.prediction) === (correct === "yes"));
}

// Choose a number alone, or with shift one more or one less.
function toggled(chosen, value, more) {
  if (!more) return chosen.length === 1 && chosen[0] === value ? [] : [value];
  return chosen.includes(value) ? chosen.filter((other) => other !== value) : [...chosen, value];
}

function filterBar(ctx, filter) {
  const pill = (kind, value) => h("button", { type: "button", class: "pill", "data-keep": `pill ${kind} ${value}`, "aria-label": `remove the ${kind} ${ctx.className(value)}`,
    onclick: () => ctx.go({ [`${kind}s`]: filter[`${kind}s`].filter((other) => other !== value).join(",") }) }, `${kind}: ${ctx.className(value)} ×`);
  const isFiltered = filter.labels.length || filter.predictions.length || filter.correct || filter.samples.length;
  const more = (kind) => choice(kind, [{ key: "", name: "any" }, ...ctx.store.classes.map((found) => ({ key: found.target, name: found.name }))], "", (target) => target !== "" && ctx.go({ [`${kind}s`]: toggled(filter[`${kind}s`], target, true).join(",") }));
  return h("div", { class: "pills" }, more("label"), more("prediction"),
    choice("the prediction is", [{ key: "", name: "right or wrong" }, { key: "yes", name: "right" }, { key: "no", name: "wrong" }], filter.correct, (correct) => ctx.go({ correct })),
    filter.labels.map((value) => pill("label", value)), filter.predictions.map((value) => pill("prediction", value)),
    isFiltered ? h("button", { type: "button", class: "pill", "data-keep": "clear", onclick: () => ctx.go({ labels: "", predictions: "", correct: "", samples: "" }) }, "Clear all") : null);
}

function overview(ctx, members, filter) {
  const classes = ctx.store.classes.slice(0, 40);
  const shown = members.map((_, i) => i).slice(0, 60);
  const counts = classes.map(({ target }) => shown.map((pattern) => members[pattern].reduce((sum, row) => sum + (row.label === target), 0)));
  return bubbles(classes, shown, counts, {
    label: "how many samples of a label each pattern holds", rowName: (found) => found.name, columnName: (pattern) => String(pattern),
    active: (row, column) => filter.labels.includes(classes[row].target) && ctx.place.pattern === String(shown[column]),
    onPick: ({ row, column }, event) => ctx.go({ labels: toggled(filter.labels, classes[row].target, event.shiftKey).join(","), pattern: event.shiftKey ? undefined : shown[column] }),
  });
}

// A pattern: how large and how sure it is, what it holds, and what sets it apart.
function card(ctx, quantity, pattern, page, members, all, filter) {
  const firm = [...members].sort((a, b) => b.probability - a.probability || a.row - b.row);
  const key = { view: "pattern", layer: ctx.layer, quantity, number: pattern };
  const wrong = (sample, i, rows) => (rows[i].prediction >= 0 && rows[i].prediction !== rows[i].label ? "wrong" : "");
  const tiles = (rows) => sampleTiles(ctx, rows.map((row) => row.sample), {
    size: 48, captions: rows.map((row) => percent(row.probability)), titles: rows.map((row) => toldOf(ctx, row)), marks: (sample, i) => `${wrong(sample, i, rows)} ${filter.samples.includes(sample) ? "chosen" : ""}`,
  });
  const n = ctx.place.cards === "wide" || ctx.place.pattern !== undefined ? 16 : 6;
  return h("article", { class: "part", "aria-label": `pattern ${pattern}` },
    h("div", { class: "card-head" }, ctx.store.has_model && ctx.store.kind === "pictures" && averagePicture(ctx, quantity, pattern),
      h("div", {}, h("h2", {}, link(ctx, { pattern }, `Pattern ${pattern}`)),
        h("p", { class: "muted", title: "persistence: how far the group holds together as the clustering looks closer, relative to the whole (HDBSCAN)" }, `${count(members.length, "sample")}${members.length < all.length ? ` of ${all.length}` : ""}; persistence ${number(page.persistence[pattern])}`),
        h("div", { class: "tools" }, pinButton(ctx, key), h("button", { type: "button", class: "pill", "data-keep": `all ${pattern}`,
          onclick: () => ctx.go({ samples: [...new Set(members.map((row) => row.sample))].slice(0, 200).join(",") }) }, "Select its samples")))),
    h("h3", {}, "most stable: how surely they belong"), tiles(firm.slice(0, n)), h("h3", {}, "least stable"), tiles(firm.slice(-n).reverse()),
    h("h3", {}, "labels"), classBars(ctx, "label", members, all, filter), h("h3", {}, "predictions"), classBars(ctx, "prediction", members, all, filter),
    h("h3", {}, "how surely they belong"), histogram({ ...binned(members.map((row) => row.probability)), label: `probabilities of pattern ${pattern}`, format: percent }),
    h("details", { open: ctx.place.pattern !== undefined || undefined, ontoggle: (event) => event.target.open && unitBoxes(ctx, [{ key: ctx.base, layer: ctx.layer, quantity, pattern, name: `pattern ${pattern}` }]).then((chart) => fill(event.target.lastChild, chart)) },
      h("summary", {}, "what its units do"), h("div", {})));
}

// What there is to say of a sample of a pattern.
function toldOf(ctx, row) {
  return [row.label >= 0 && `label: ${ctx.className(row.label)}`, row.prediction >= 0 && `predicted: ${ctx.className(row.prediction)}`,
    `probability: ${percent(row.probability)}`].filter(Boolean).join("\n");
}

function averagePicture(ctx, quantity, pattern) {
  const image = h("img", { class: "averages", alt: `the average of pattern ${pattern}` });
  ctx.data.picture(`${ctx.base}/layers/${ctx.layer}/patterns/${pattern}/average?quantity=${quantity}`).then((url) => { image.src = url; }, () => image.remove());
  return image;
}

function classBars(ctx, field, members, all, filter) {
  const total = new Map();
  const own = new Map();
  for (const row of all) total.set(row[field], (total.get(row[field]) || 0) + 1);
  for (const row of members) own.set(row[field], (own.get(row[field]) || 0) + 1);
  const items = [...total].filter(([target]) => target >= 0).sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, 10);
  return bars(items.map(([target, most]) => ({ name: ctx.className(target), key: target, value: own.get(target) || 0, total: most, active: filter[`${field}s`].includes(target) })), {
    label: `${field}s`, onPick: (item, event) => ctx.go({ [`${field}s`]: toggled(filter[`${field}s`], item.key, event.shiftKey).join(",") }),
  });
}

function binned(values, bins = 20) {
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.max(0, Math.floor(value * bins)))] += 1;
  return { edges: Array.from({ length: bins + 1 }, (_, i) => i / bins), counts: values.length ? counts : [], zeros: 0 };
}

// Box plots of units over the samples of patterns, one over the other: those that differ most from all samples first.
async function unitBoxes(ctx, patterns) {
  const found = await Promise.all(patterns.map(({ key, layer, quantity, pattern }) => Promise.all([
    ctx.data.floats(`${key}/layers/${layer}/patterns/boxes?pattern=${pattern}&quantity=${quantity}`), ctx.data.floats(`${key}/layers/${layer}/patterns/boxes?pattern=-1&quantity=${quantity}`)])));
  const read = ({ values, shape }, unit) => Object.fromEntries(STATISTICS.map((name, i) => [name, values[i * shape[1] + unit]]));
  const width = Math.min(...found.map(([own]) => own.shape[1]));
  const units = Array.from({ length: width }, (_, unit) => ({
    unit, own: found.map(([own]) => read(own, unit)), all: read(found[0][1], unit),
  })).filter(({ own }) => ctx.place.units === "all" || own.some((box) => box.upper > NEAR_ZERO || box.lower < -NEAR_ZERO));
  const apart = ({ own, all }) => Math.max(...own.map((box) => Math.abs(box.mean - all.mean))) / (Math.abs(all.q3 - all.q1) || Math.abs(all.mean) || 1);
  units.sort((a, b) => apart(b) - apart(a) || a.unit - b.unit);
  const alone = patterns.length === 1;
  return h("div", {}, h("p", { class: "muted" }, `${count(Math.min(units.length, SHOWN_UNITS), "unit")} of ${width}: those that differ most from all samples${alone ? " (grey)" : ""}`),
    boxes(units.slice(0, SHOWN_UNITS).map(({ unit, own, all }) => ({ name: String(unit), key: unit, boxes: [
      ...(alone ? [{ name: "all samples", ...all, colour: "var(--grey)" }] : []),
      ...own.map((box, i) => ({ name: patterns[i].name, ...box, colour: COLOURS[i % COLOURS.length] })),
    ] })), { label: "values of units", format: number, onPick: (row) => ctx.go({ view: "concept", layer: patterns[0].layer, concept: row.key }) }));
}

function pinButton(ctx, key) {
  const isShared = list2(ctx.place.pins).some((text) => text === pinText(ctx.store.key, key));
  const button = h("button", { type: "button", class: "pill", "data-keep": `pin ${key.number}`, "aria-pressed": String(isShared), onclick: async () => {
    const pins = list2(ctx.place.pins);
    const own = pinText(ctx.store.key, key);
    const isPinned = pins.includes(own);
    if (!ctx.isStatic) {
      try {
        await ctx.data.send("PATCH", `${ctx.base}/notes`, { on: key, is_pinned: !isPinned });
        ctx.data.forget(`${ctx.base}/notes`);
      } catch (error) {
        button.after(trouble(error));
      }
    }
    ctx.go({ pins: (isPinned ? pins.filter((pin) => pin !== own) : [...pins, own]).join(";") });
  } }, isShared ? "Pinned" : "Pin");
  return button;
}

const list2 = (text) => (text ? text.split(";") : []);
const pinText = (store, { layer, quantity, number: pattern }) => `${store}:${layer}:${quantity}:${pattern}`;

// Pinned patterns, across layers and stores, with their box plots one over the other.
async function compared(ctx) {
  let pins = list2(ctx.place.pins);
  if (!pins.length && !ctx.isStatic) {
    const notes = await ctx.data.json(`${ctx.base}/notes`);
    const kept = notes.pins.filter((pin) => pin.view === "pattern").map((pin) => pinText(ctx.store.key, pin));
    if (kept.length) return h("p", {}, link(ctx, { pins: kept.join(";") }, `Compare ${count(kept.length, "pinned pattern")}`));
  }
  pins = pins.map((pin) => {
    const [store, layer, quantity, pattern] = pin.split(":");
    return { store: ctx.stores.find((found) => found.key === store), layer: Number(layer), quantity, pattern: Number(pattern), pin };
  }).filter(({ store, layer }) => store && store.layers[layer]);
  if (!pins.length) return null;
  const isOfOne = new Set(pins.map(({ store, layer, quantity }) => `${store.key}:${layer}:${quantity}`)).size === 1;
  const name = ({ store, layer, quantity, pattern }) => `${ctx.stores.length > 1 ? `${store.name} ` : ""}${store.layers[layer].name} ${quantity} ${pattern}`;
  return part({ title: "Pinned patterns, compared", wide: true, note: isOfOne ? "" : "Units of different layers are not the same: only their numbers are." },
    h("div", { class: "pills" }, pins.map((pin, i) => h("button", { type: "button", class: "pill", style: { borderColor: COLOURS[i % COLOURS.length] }, "data-keep": `unpin ${pin.pin}`, "aria-label": `take ${name(pin)} away`,
      onclick: () => ctx.go({ pins: list2(ctx.place.pins).filter((other) => other !== pin.pin).join(";") }) }, `${name(pin)} ×`))),
    soon(unitBoxes(ctx, pins.map((pin) => ({ key: `/api/${pin.store.key}`, layer: pin.layer, quantity: pin.quantity, pattern: pin.pattern, name: name(pin) }))), (chart) => chart));
}

// All patterns that hold the selected samples, across layers.
async function ofSelected(ctx) {
  const samples = list(ctx.place.samples);
  if (!samples.length) return null;
  const wanted = new Set(samples);
  const lines = [];
  for (const store of ctx.stores) {
    for (const [layer, { name, patterns }] of store.layers.entries()) {
      for (const quantity of patterns) {
        const base = `/api/${store.key}`;
        const [rows, found] = await Promise.all([ctx.data.integers(`${base}/rows?quantity=${quantity}`), ctx.data.floats(`${base}/layers/${layer}/patterns/rows?quantity=${quantity}`)]);
        const counts = new Map();
        for (let row = 0; row < rows.shape[0]; row += 1) {
          if (wanted.has(rows.values[4 * row]) && found.values[row] >= 0) counts.set(found.values[row], (counts.get(found.values[row]) || 0) + 1);
        }
        for (const [pattern, many] of [...counts].sort((a, b) => b[1] - a[1])) lines.push({ store, layer, name, quantity, pattern, many });
      }
    }
  }
  return part({ title: `Patterns that hold the ${count(samples.length, "selected sample")}`, wide: true }, sampleTiles(ctx, samples.slice(0, 40), { size: 48, marks: () => "chosen" }),
    lines.length ? h("ul", {}, lines.map(({ store, layer, name, quantity, pattern, many }) => h("li", {}, link(ctx, { store: store.key === ctx.place.store || store === ctx.store ? ctx.place.store : store.key, layer: ctx.store === store ? layer : store.layers[layer].name, quantity, pattern },
      `${ctx.stores.length > 1 ? `${store.name}, ` : ""}${name}, ${quantity}: pattern ${pattern}`), ` holds ${many}`))) : h("p", { class: "muted" }, "None."),
    h("p", {}, link(ctx, { samples: "" }, "Select none")));
}
