// The model: its layers, and whether what is said of it can be trusted.
import { count, h, meanings, number, part, percent, soon, toggle } from "./dom.js";
import { conceptTitle, link, QUANTITIES, working } from "./parts.js";

const MOST_NAMED = 3;
const CHECKS = {
  closed: { claim: "Relevance adds up", how: "What is relevant at the output has to be found again at the input and in biases." },
  faithful: {
    claim: "Answers follow the concepts", how: "Concepts are removed and inserted, the most relevant first: answers have to change sooner than in random orders.",
  },
  sane: {
    claim: "Relevance depends on what was learned", how: "The weights above the layer are drawn anew: the order of the concepts has to change.",
  },
  stable: {
    claim: "Chance changes little", how: "With a little noise on the inputs the order of the concepts has to stay; references of two halves of the samples are compared.",
  },
  clear: {
    claim: "Concepts stand for something", how: "How many are dead, do what another one does, or are of one class. This decides nothing.",
  },
};

// What was swept, with what, and where to begin.
export async function modelView(ctx) {
  const { store } = ctx;
  return h("div", {},
    h("h1", {}, "What has the model learned?"),
    h("p", {}, `A ${store.made.model}, with ${count(store.samples, "sample")}, ${count(store.layers.length, "layer")} and `
      + `${count(store.layers.reduce((sum, layer) => sum + layer.concepts, 0), "concept")}. `
      + `Rules of relevance: ${store.made.composite}; folder of the store: ${store.name}.`),
    store.without && h("p", { class: "note" }, store.without),
    audit(ctx),
    part({ title: "Layers", wide: true, note: "From input to output. A layer's concepts are its channels, or directions that were found in it." },
      h("div", { class: "tools" }, toggle("quantity", QUANTITIES, ctx.quantity, (quantity) => ctx.go({ quantity }))),
      h("div", { class: "layers" }, store.layers.map((layer, i) => h("div", { class: "layer", "aria-current": i === ctx.layer ? "true" : undefined },
        link(ctx, { view: "concepts", layer: i }, h("b", {}, layer.name)), h("span", {}, count(layer.concepts, "concept")),
        h("span", { class: "muted" }, layer.positions.length ? `${layer.positions.join(" × ")} positions` : "no positions"),
        h("span", { class: "muted" }, [layer.trust && "trust report", layer.patterns.length && "patterns"].filter(Boolean).join(", ")),
        largest(ctx, i))))),
    h("div", { class: "parts" },
      ownFirst(ctx).map(({ name, trust, i }) => (trust || i === ctx.layer) && part(`Can ${name} be trusted?`, trust
        ? soon(ctx.data.json(`${ctx.base}/layers/${i}?quantity=${ctx.quantity}`), (page) => checkList(page.checks))
        : h("p", { class: "note" }, "The store keeps no trust report of this layer: crp trust SPEC makes one, and measures whether relevance adds up and answers follow it."))),
      !ctx.isStatic && soon(ctx.data.json(`${ctx.base}/notes`), (notes) => noted(ctx, notes)),
      part("Classes", h("p", { class: "muted" }, count(store.classes.length, "class", "classes")), h("ul", {}, store.classes.slice(0, 20)
        .map((found) => h("li", {}, link(ctx, { view: "concepts", target: found.target }, found.name),
          ` – ${count(found.samples, "sample")}, ${percent(found.samples / Math.max(1, store.samples))}`))),
      store.classes.length > 20 && h("p", { class: "muted" }, `and ${store.classes.length - 20} more`))));
}

// All layers, the chosen one before the others.
function ownFirst(ctx) {
  const layers = ctx.store.layers.map(({ name, trust }, i) => ({ name, trust, i }));
  return [layers[ctx.layer], ...layers.filter(({ i }) => i !== ctx.layer)];
}

// What people pinned, named and wrote about.
function noted(ctx, { pins, notes }) {
  const key = ({ view, layer, quantity, number: id }) => `${view} ${layer} ${quantity} ${id}`;
  const said = new Map(notes.map((note) => [key(note.on), note]));
  const all = [...new Map([...pins, ...notes.map((note) => note.on)].map((on) => [key(on), on])).values()];
  if (!all.length) return null;
  return part("Pins and notes", h("ul", {}, all.map((on) => h("li", {}, link(ctx, placeOf(on), titleOf(ctx, on, said.get(key(on))?.name)), said.get(key(on))?.text && ` – ${said.get(key(on)).text}`))));
}

const placeOf = ({ view, layer, quantity, number: id }) => (view === "sample" ? { view, input: id }
  : { view: view === "pattern" ? "patterns" : view, layer, quantity, [view]: id });

function titleOf(ctx, { view, layer, number: id }, name) {
  if (view === "sample") return `sample ${id}`;
  return `${ctx.store.layers[layer]?.name ?? layer} ${view === "concept" ? conceptTitle(id, name) : `pattern ${id}`}`;
}

// The concepts of a layer with the largest shares of relevance or activation.
function largest(ctx, layer) {
  const held = ctx.isStatic ? ctx.copy.concepts[layer] || [] : null;
  if (held && !held.length) return null;
  const width = ctx.store.layers[layer].concepts;
  return soon(ctx.data.floats(`${ctx.base}/layers/${layer}/columns?quantity=${ctx.quantity}`), ({ values }) => {
    const shares = values.subarray(0, width);
    const first = (held ? [...held] : Array.from(shares.keys())).sort((a, b) => shares[b] - shares[a] || a - b).slice(0, MOST_NAMED);
    return h("span", { class: "muted" }, `most ${ctx.quantity === "relevance" ? "relevant" : "active"}: `, first.map((concept, i) => [
      i > 0 && ", ", link(ctx, { view: "concept", layer, concept }, { title: `${percent(shares[concept])} of the layer's ${ctx.quantity}` }, String(concept)),
    ]));
  });
}

// What a trust report found: how much holds, and one line for each check.
function checkList(checks) {
  const judged = checks.filter((check) => check.holds !== null);
  const failed = judged.filter((check) => !check.holds).length;
  const verdict = !judged.length ? "Nothing could be decided." : failed === 0 ? `Yes: all ${judged.length} checks that decide hold.`
    : `With care: ${failed} of ${judged.length} checks that decide ${failed === 1 ? "fails" : "fail"}.`;
  return h("div", {}, h("p", {}, h("b", {}, verdict)), h("ul", { class: "checks" }, checks.map((check) => h("li", {
    class: check.holds === null ? "open" : check.holds ? "yes" : "no",
  }, h("b", {}, CHECKS[check.name]?.claim || check.name), h("div", { class: "muted" }, `${check.name}: ${check.sentence}`)))),
  meanings("What the checks are", checks.filter(({ name }) => CHECKS[name]).map(({ name }) => ({ name, meaning: CHECKS[name].how }))));
}

// Whether relevance adds up on its way through the model: first of all, since all else rests on it.
function audit(ctx) {
  if (!ctx.store.has_model && !ctx.isStatic) return null;
  return part({ title: "Does relevance add up?", wide: true }, working(ctx, (onProgress) => ctx.data.later(`${ctx.base}/audit`, onProgress), (found) => h("div", {},
    h("ul", { class: "checks" },
      h("li", { class: found.conserved ? "yes" : "no" }, h("b", {}, found.conserved ? "Relevance is conserved: " : "Relevance is not conserved: "),
        `of 1 at the output, ${number(found.total)} arrives at the input${sinks(found)}: ${number(found.accounted)} in all (${count(found.samples, "sample")}).`),
      found.faults.map((fault) => h("li", { class: "no" }, `${fault.operation}${fault.module ? ` in ${fault.module}` : ""} ${fault.imbalance >= 0 ? "loses" : "creates"} ${number(Math.abs(fault.imbalance))}`)),
      found.notes.map((note) => h("li", { class: "open" }, note)))), { height: 60 }));
}

// Where the rest of relevance is: biases, stabilizers and whatever else absorbs it.
function sinks(found) {
  const held = Object.entries(found.sinks).filter(([, value]) => Math.abs(value) >= 5e-4).map(([name, value]) => `${number(value)} in ${name}`);
  return held.length ? `, ${held.join(", ")}` : "";
}
