// The model: its layers, and whether what is said of it can be trusted.
import { count, h, number, part, percent, soon, toggle } from "./dom.js";
import { link, QUANTITIES, working } from "./parts.js";

// What was swept, with what, and where to begin.
export async function modelView(ctx) {
  const { store } = ctx;
  return h("div", {},
    h("h1", {}, `${store.made.model}: what has it learned?`),
    h("p", {}, `${count(store.samples, "sample")}, ${count(store.layers.length, "layer")}, `
      + `${count(store.layers.reduce((sum, layer) => sum + layer.concepts, 0), "concept")}. `
      + `Rules: ${store.made.composite}; store: ${store.name}.`),
    store.without && h("p", { class: "note" }, store.without),
    h("div", { class: "tools" }, toggle("quantity", QUANTITIES, ctx.quantity, (quantity) => ctx.go({ quantity }))),
    audit(ctx),
    part({ title: "Layers", wide: true, note: "From input to output. A layer's concepts are its channels, or directions that were found in it." },
      h("div", { class: "layers" }, store.layers.map((layer, i) => link(ctx, { view: "concepts", layer: i }, {
        class: "layer", "aria-current": i === ctx.layer ? "true" : undefined,
      }, h("b", {}, layer.name), h("span", {}, count(layer.concepts, "concept")),
      h("span", { class: "muted" }, layer.positions.length ? `${layer.positions.join(" × ")} positions` : "no positions"),
      h("span", { class: "muted" }, [layer.trust && "trust report", layer.patterns.length && "patterns"].filter(Boolean).join(", ")))))),
    h("div", { class: "parts" },
      store.layers.some((layer) => layer.trust)
        ? store.layers.map((layer, i) => layer.trust && part(`Can ${layer.name} be trusted?`, soon(
          ctx.data.json(`${ctx.base}/layers/${i}?quantity=${ctx.quantity}`), (page) => checkList(page.checks))))
        : part("Can it be trusted?", h("p", { class: "note" }, "The store keeps no trust report: crp trust SPEC makes one, "
          + "and measures whether relevance adds up and answers follow it.")),
      part("Classes", h("p", { class: "muted" }, count(store.classes.length, "class", "classes")), h("ul", {}, store.classes.slice(0, 20)
        .map((found) => h("li", {}, link(ctx, { view: "concepts", target: found.target }, found.name),
          ` – ${count(found.samples, "sample")}, ${percent(found.samples / Math.max(1, store.samples))}`))),
      store.classes.length > 20 && h("p", { class: "muted" }, `and ${store.classes.length - 20} more`))));
}

// What a trust report found, one line for each check.
export function checkList(checks) {
  return h("ul", { class: "checks" }, checks.map((check) => h("li", {
    class: check.holds === null ? "open" : check.holds ? "yes" : "no",
  }, h("b", {}, check.name), " ", check.sentence)));
}

// Whether relevance adds up on its way through the model: first of all, since all else rests on it.
function audit(ctx) {
  if (!ctx.store.has_model && !ctx.isStatic) return null;
  return part({ title: "Does relevance add up?", wide: true }, working(ctx, (onProgress) => ctx.data.later(`${ctx.base}/audit`, onProgress), (found) => h("div", {},
    h("ul", { class: "checks" },
      h("li", { class: found.conserved ? "yes" : "no" }, found.conserved ? "Relevance is conserved: " : "Relevance is not conserved: ",
        `of 1 at the output ${number(found.total)} arrives at the input, ${number(found.accounted)} with what is booked as sinks (${count(found.samples, "sample")}).`),
      Object.entries(found.sinks).map(([name, value]) => h("li", { class: "open" }, `${name} hold${name.endsWith("s") ? "" : "s"} ${number(value)}`)),
      found.faults.map((fault) => h("li", { class: "no" }, `${fault.operation}${fault.module ? ` in ${fault.module}` : ""} ${fault.imbalance >= 0 ? "loses" : "creates"} ${number(Math.abs(fault.imbalance))}`)),
      found.notes.map((note) => h("li", { class: "open" }, note)))), { height: 60 }));
}
