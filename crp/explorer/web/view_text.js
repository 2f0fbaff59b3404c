// Texts: tokens with colours, words, and what a language model writes with units set.
import { bars } from "./charts.js";
import { choice, count, h, number, part, soon, toggle } from "./dom.js";
import { link, outputBars, QUANTITIES, tokens, working } from "./parts.js";

const PAGE = 12;

// A corpus, and experiments on what is written.
export async function textView(ctx) {
  const { store, layer, quantity } = ctx;
  const name = store.layers[layer].name;
  const first = Number(ctx.place.first || 0);
  const chosen = (ctx.place.concepts || "0").split(",").map(Number).filter((concept) => concept >= 0 && concept < store.layers[layer].concepts);
  const page = await ctx.data.json(`${ctx.base}/texts?first=${first}&count=${PAGE}`);
  return h("div", {}, h("h1", {}, "Texts"),
    h("div", { class: "tools" }, toggle("quantity", QUANTITIES, quantity, (key) => ctx.go({ quantity: key })),
      h("label", { class: "choice" }, h("span", {}, `concepts of ${name}`), h("input", { value: chosen.join(","), size: 12, pattern: "[0-9, ]*", "data-keep": "concepts", onchange: (event) => ctx.go({ concepts: event.target.value.replace(/[^\d,]/g, "") }) }))),
    h("div", { class: "parts" },
      part({ title: "Corpus", wide: true, note: store.of_positions ? `Colours: the ${quantity} of ${chosen.length > 1 ? "the mean of the chosen concepts" : `concept ${chosen[0]}`} at each token; red positive, blue negative.` : "This store has a row for each text: sweep with --rows positions to see what concepts do at each token." },
        page.texts.map((text) => h("div", {}, h("p", { class: "muted" }, link(ctx, { view: "sample", input: text.sample, concept: chosen[0] }, `text ${text.sample}`), text.targets.length > 0 && `: ${text.targets.map((target) => ctx.className(target)).join(", ")}`),
          store.of_positions ? soon(ctx.data.floats(`${ctx.base}/texts/${text.sample}/layers/${layer}/values?concepts=${chosen.join(",")}&quantity=${quantity}`), ({ values, shape }) => tokens(text.tokens, mean(values, shape), { label: `text ${text.sample}` })) : tokens(text.tokens, null, { label: `text ${text.sample}` }))),
        h("div", { class: "tools" }, h("button", { type: "button", disabled: first === 0, "data-keep": "before", onclick: () => ctx.go({ first: Math.max(0, first - PAGE) || "" }) }, "before"),
          h("span", { class: "muted" }, `${first + 1} to ${first + page.texts.length} of ${count(page.of, "text")}`),
          h("button", { type: "button", disabled: first + PAGE >= page.of, "data-keep": "next", onclick: () => ctx.go({ first: first + PAGE }) }, "next"))),
      store.of_positions && chosen.map((concept) => part(`Words of concept ${concept}`, soon(ctx.data.json(`${ctx.base}/layers/${layer}/concepts/${concept}/words?quantity=${quantity}`), (found) => h("div", {},
        h("p", { class: "muted" }, `mean ${number(found.mean)}, standard deviation ${number(found.deviation)}; scores in standard deviations`),
        bars(found.words.map((word) => ({ name: `${word.word} (${word.count})`, value: word.score })), { label: `words of concept ${concept}`, format: number }))))),
      part({ title: "What the model writes", wide: true, note: "The most probable token each time, as the model is and with concepts set." }, written(ctx, chosen))));
}

function mean(values, [concepts, length]) {
  return Float32Array.from({ length }, (_, i) => {
    let sum = 0;
    for (let concept = 0; concept < concepts; concept += 1) sum += values[concept * length + i];
    return sum / concepts;
  });
}

function written(ctx, chosen) {
  const text = ctx.place.text ?? "";
  const units = ctx.place.units || chosen.map((concept) => `${ctx.layer}:${concept}:scale:${ctx.place.factor ?? 0}`).join(",");
  const field = h("input", { value: text, size: 40, "data-keep": "text", "aria-label": "a text to go on with", placeholder: "the beginning of a text", onchange: (event) => ctx.go({ text: event.target.value }) });
  return h("div", {}, h("div", { class: "tools" }, h("label", { class: "choice grows" }, h("span", {}, "text"), field),
    choice("chosen concepts", [{ key: "0", name: "without them" }, { key: "2", name: "doubled" }, { key: "5", name: "five times" }, { key: "-1", name: "turned" }], ctx.place.factor ?? "0", (factor) => ctx.go({ factor, units: "" }))),
  text && working(ctx, (onProgress) => ctx.data.later(`${ctx.base}/continuation?text=${encodeURIComponent(text)}&units=${units}`, onProgress), (found) => h("div", { class: "two" },
    h("div", {}, h("h3", {}, "as it is"), h("p", {}, found.text_before.join(" ")), outputBars(bars, found.before.slice(0, 6), { label: "next token before" })),
    h("div", {}, h("h3", {}, "with concepts set"), h("p", {}, found.text_after.flatMap((word, i) => [found.changed[i] ? h("mark", { class: "changed" }, word) : word, " "])), outputBars(bars, found.after.slice(0, 6), { label: "next token after" })))));
}
