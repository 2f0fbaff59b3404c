// A sample: what the model answers, why, and which concepts it takes for that; alone, beside another one, or uploaded.
import { bars, strip } from "./charts.js";
import { choice, fill, h, part, percent, soon, toggle } from "./dom.js";
import { conceptBars, conceptTitle, heatmap, link, needsModel, notebook, outputBars, QUANTITIES, tokens, working } from "./parts.js";

const MOST_CELLS = 512;

// A sample, or two side by side.
export async function sampleView(ctx) {
  const input = String(ctx.place.input ?? "0");
  const beside = ctx.place.beside;
  const isUpload = input.startsWith("u");
  return h("div", {},
    h("p", { class: "muted" }, link(ctx, { view: "samples" }, "← samples")),
    h("h1", {}, isUpload ? "An uploaded picture" : `Sample ${input}${beside ? ` and sample ${beside}` : ""}`),
    h("div", { class: "tools" }, toggle("quantity", QUANTITIES, ctx.quantity, (quantity) => ctx.go({ quantity })),
      h("label", { class: "choice" }, h("span", {}, "beside sample"), h("input", { type: "number", min: 0, size: 7, value: beside ?? "", "data-keep": "beside",
        onchange: (event) => ctx.go({ beside: event.target.value || undefined }) }))),
    !isUpload && notebook(ctx, { view: "sample", layer: 0, quantity: "relevance", number: Number(input) }),
    h("div", { class: beside ? "two" : "" }, await oneSample(ctx, input), beside && await oneSample(ctx, beside)));
}

async function oneSample(ctx, input) {
  if (ctx.store.kind === "texts") return textSample(ctx, Number(input));
  const { place, layer } = ctx;
  const isUpload = input.startsWith("u");
  const page = isUpload ? null : await ctx.data.json(`${ctx.base}/samples/${input}?quantity=${ctx.quantity}${ctx.isStatic ? "" : `&layer=${layer}`}`);
  const url = ctx.store.has_pictures ? ctx.data.picture(`${ctx.base}/inputs/${input}/picture`) : Promise.resolve(null);
  const told = page && h("p", {}, answerOf(ctx, page));
  const query = [place.explain !== undefined && `target=${place.explain}`, place.against !== undefined && `against=${place.against}`].filter(Boolean);
  const path = `${ctx.base}/inputs/${input}/explained`;
  const whole = path + (query.length ? `?${query.join("&")}` : "");
  const concept = place.concept === undefined ? null : Number(place.concept);
  const ofConcept = concept === null ? null : `${path}?${[...query.filter((ask) => ask.startsWith("target")), `layer=${layer}`, `concept=${concept}`].join("&")}`;
  const picture = soon(url, (found) => (found ? heatmap(ctx, { url: found, label: `sample ${input}` }) : h("p", { class: "note" }, "The store keeps no picture of it: pictures come with the dataset, or with crp explore SPEC --keep-pictures.")), { height: 200 });
  const known = page && page.layers.find((found) => found.layer === layer);
  const storedConcepts = known && part({ title: `Concepts of ${ctx.store.layers[layer].name}`, note: page.target >= 0 && ctx.quantity === "relevance"
    ? `Shares of the relevance for ${ctx.className(page.target)}, as the store has them.` : `Shares of the ${ctx.quantity}, as the store has them.` },
  conceptBars(ctx, bars, layer, known.concepts.slice(0, 12), { active: concept, onPick: (chosen) => ctx.go({ concept: chosen === concept ? undefined : chosen }, { replace: true }) }),
  allConcepts(ctx, input),
  concept !== null && h("p", {}, link(ctx, { view: "concept", concept, input: isUpload ? undefined : input }, `All about ${conceptTitle(concept, known.concepts.find((found) => found.concept === concept)?.name)}`)));
  return h("div", { class: "parts" },
    part("The sample", told, picture, assignment(ctx, input)),
    ctx.store.has_model || ctx.isStatic ? part({ title: "Why", note: place.against !== undefined ? `Red: for ${ctx.className(Number(place.explain))}; blue: for ${ctx.className(Number(place.against))}.` : "Red: for the answer; blue: against it." },
      working(ctx, (onProgress) => Promise.all([ctx.data.both(whole, onProgress), url]), ([{ document: found, numbers }, shown]) => h("div", {},
        contrastTools(ctx, found),
        heatmap(ctx, { url: shown, values: numbers, height: found.height, width: found.width, label: `heatmap for ${ctx.className(found.target)}` }),
        h("h3", {}, "Answers"), outputBars(bars, found.outputs, { target: found.target, onPick: (target) => ctx.go({ explain: target, against: undefined }, { replace: true }) }))))
      : part("Why", needsModel()),
    storedConcepts,
    ofConcept && ctx.store.has_model && part({ title: `Where ${conceptTitle(concept, "")} is`, note: "The heatmap on condition of this concept alone." },
      working(ctx, (onProgress) => Promise.all([ctx.data.both(ofConcept, onProgress), url]), ([{ document: found, numbers }, shown]) => heatmap(ctx, {
        url: shown, values: numbers, height: found.height, width: found.width, label: `heatmap of concept ${concept}`,
      }))),
    ctx.store.has_model && (isUpload || place.against !== undefined || !known) && part({ title: `Concepts of ${ctx.store.layers[layer].name} ${place.against === undefined ? "for the answer" : `for ${ctx.className(Number(place.explain))}, not ${ctx.className(Number(place.against))}`}`, note: "Shares of the relevance for what is explained above." },
      working(ctx, (onProgress) => ctx.data.both(whole, onProgress), ({ document: found }) => conceptBars(ctx, bars, layer, (found.layers.find((one) => one.layer === layer) || { concepts: [] }).concepts.slice(0, 12), {
        active: concept, onPick: (chosen) => ctx.go({ concept: chosen === concept ? undefined : chosen }, { replace: true }),
      }))),
    ctx.store.has_model && part({ title: "Concepts in a region", note: "Drag a region (or focus the picture: arrows move it, shift and arrows size it, Enter takes it)." }, regional(ctx, input, url, query, whole)));
}

// All concepts of the layer at a glance, in their order: samples that are alike look alike.
function allConcepts(ctx, input) {
  const { concepts, name } = ctx.store.layers[ctx.layer];
  if (ctx.isStatic || concepts > MOST_CELLS) return null;
  return h("div", {}, h("h3", {}, "All, in their order"), soon(ctx.data.floats(`${ctx.base}/samples/${input}/layers/${ctx.layer}/values?quantity=${ctx.quantity}`),
    ({ values }) => strip(values, {
      label: `${ctx.quantity} of all concepts of ${name}`, names: Array.from(values, (_, concept) => `concept ${concept}`),
      onPick: (concept) => ctx.go({ concept }, { replace: true }),
    })));
}

// What a sample is, and what the model takes it for.
function answerOf(ctx, page) {
  const targets = page.targets.map((target) => ctx.className(target)).join(", ");
  const predicted = page.prediction >= 0 ? `Predicted: ${ctx.className(page.prediction)}` : "";
  if (!page.targets.length) return predicted && `${predicted}.`;
  if (!ctx.store.has_labels) return predicted ? `${predicted}, the class that was explained.` : `The class that was explained: ${targets}.`;
  const isWrong = predicted && !page.targets.includes(page.prediction);
  return [`Label: ${targets}.`, predicted && `${predicted}${isWrong ? ", which is wrong" : ""}.`].filter(Boolean).join(" ");
}

function contrastTools(ctx, found) {
  const options = found.outputs.map((output) => ({ key: output.target, name: output.name }));
  return h("div", { class: "tools" },
    choice("explain", options, found.target, (explain) => ctx.go({ explain, against: undefined }, { replace: true })),
    choice("and not", [{ key: "", name: "–" }, ...options.filter(({ key }) => key !== found.target)], found.against ?? "", (against) => ctx.go({ explain: found.target, against }, { replace: true })));
}

function assignment(ctx, input) {
  const quantity = ["activation", "relevance"].find((name) => ctx.store.layers[ctx.layer].patterns.includes(name));
  if (!quantity || !ctx.store.has_model) return null;
  return working(ctx, (onProgress) => ctx.data.later(`${ctx.base}/inputs/${input}/layers/${ctx.layer}/pattern?quantity=${quantity}`, onProgress), (found) => h("p", {},
    found.pattern < 0 ? `Belongs to no pattern of ${ctx.store.layers[ctx.layer].name}.`
      : ["Belongs to ", link(ctx, { view: "patterns", quantity, pattern: found.pattern }, `pattern ${found.pattern}`), ` of ${ctx.store.layers[ctx.layer].name} (${percent(found.probability)} sure).`]), { height: 30 });
}

// Concepts by what they hold within a region that is brushed.
function regional(ctx, input, url, query, whole) {
  const region = ctx.place.region ? ctx.place.region.split(",").map(Number) : null;
  const host = h("div", {});
  const box = soon(url, (shown) => heatmap(ctx, { url: shown, label: "mark a region", region, onBrush: (marked) => {
    ctx.note({ region: marked ? marked.map((value) => value.toFixed(3)).join(",") : undefined });
    rank(marked);
  } }), { height: 200 });
  const rank = (marked) => {
    if (!marked) {
      fill(host, h("p", { class: "muted" }, "No region is marked."));
      return;
    }
    fill(host, working(ctx, async (onProgress) => {
      const { document: found } = await ctx.data.both(whole, onProgress);
      const chosen = found.layers.find((one) => one.layer === ctx.layer).concepts;
      const ask = [`concepts=${chosen.map((one) => one.concept).join(",")}`, ...query].join("&");
      const { values } = await ctx.data.floatsLater(`${ctx.base}/inputs/${input}/layers/${ctx.layer}/heatmaps?${ask}`, onProgress);
      return { chosen, values, height: found.height, width: found.width };
    }, ({ chosen, values, height, width }) => conceptBars(ctx, bars, ctx.layer, inRegion(chosen, values, height, width, marked).slice(0, 10), { label: "concepts in the region" })));
  };
  rank(region);
  return h("div", { class: "two" }, box, host);
}

// What of each concept's heatmap lies in a region: of all that lies there.
function inRegion(concepts, values, height, width, [left, top, right, bottom]) {
  const sums = concepts.map((_, i) => {
    let sum = 0;
    for (let y = Math.floor(top * height); y < Math.ceil(bottom * height); y += 1) {
      for (let x = Math.floor(left * width); x < Math.ceil(right * width); x += 1) sum += values[(i * height + y) * width + x];
    }
    return sum;
  });
  const total = sums.reduce((found, sum) => found + Math.abs(sum), 0) || 1;
  return concepts.map((found, i) => ({ ...found, share: sums[i] / total })).sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
}

async function textSample(ctx, sample) {
  const position = ctx.place.position === undefined ? "" : `&position=${ctx.place.position}`;
  const page = await ctx.data.json(`${ctx.base}/samples/${sample}?quantity=${ctx.quantity}${position}${ctx.isStatic ? "" : `&layer=${ctx.layer}`}`);
  const known = page.layers.find((found) => found.layer === ctx.layer) || { concepts: [] };
  const concept = ctx.place.concept === undefined ? known.concepts[0]?.concept : Number(ctx.place.concept);
  const isByToken = ctx.store.of_positions;
  return h("div", { class: "parts" },
    part({ title: "The text", wide: true, note: isByToken && concept !== undefined ? `Colours: the ${ctx.quantity} of concept ${concept} at each token. Choose a token to see its concepts.` : "" },
      isByToken && concept !== undefined ? soon(ctx.data.floats(`${ctx.base}/texts/${sample}/layers/${ctx.layer}/values?concepts=${concept}&quantity=${ctx.quantity}`), ({ values }) => tokens(page.tokens, values, {
        picked: page.position, onPick: (chosen) => ctx.go({ position: chosen }, { replace: true }), label: `text ${sample}`,
      })) : tokens(page.tokens, null, { label: `text ${sample}` }),
      page.targets.length > 0 && h("p", {}, `Label: ${page.targets.map((target) => ctx.className(target)).join(", ")}`)),
    ctx.store.has_model && part({ title: "Why", note: "Red: tokens that speak for the answer; blue: against it." }, working(ctx,
      (onProgress) => ctx.data.both(`${ctx.base}/inputs/${sample}/explained${ctx.place.explain === undefined ? "" : `?target=${ctx.place.explain}`}`, onProgress),
      ({ document: found, numbers }) => h("div", {}, tokens(page.tokens, numbers, { label: `relevance of the tokens of text ${sample}` }),
        h("h3", {}, "Answers"), outputBars(bars, found.outputs, { target: found.target, onPick: (explain) => ctx.go({ explain }, { replace: true }) })))),
    part({ title: `Concepts of ${ctx.store.layers[ctx.layer].name}`, note: isByToken ? `at token ${page.position}` : "of the whole text" },
      conceptBars(ctx, bars, ctx.layer, known.concepts.slice(0, 12), { active: concept, onPick: (chosen) => ctx.go({ concept: chosen }, { replace: true }) }),
      concept !== undefined && h("p", {}, link(ctx, { view: "concept", concept }, `All about concept ${concept}`))));
}
