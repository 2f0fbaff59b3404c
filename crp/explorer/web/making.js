// Work whose result the store keeps: begun by a button, with its progress, until it is done or cancelled.
import { h, trouble } from "./dom.js";

// A button that begins work whose result the store keeps.
export function makeIt(ctx, task, label, told) {
  if (ctx.isStatic) return h("p", { class: "note" }, told, " This copy is static: open the store with crp explore to make it.");
  const host = h("div", {}, told && h("p", {}, told), h("button", { type: "button", "data-keep": `make ${task.kind}`, onclick: async (event) => {
    event.target.disabled = true;
    const progress = h("progress", { max: 1, "aria-label": label });
    let isWanted = true;
    const stop = h("button", { type: "button", onclick: () => { isWanted = false; } }, "Cancel");
    const waited = h("span", {});
    const began = Date.now();
    const line = h("p", { class: "working", role: "status" }, `${label} …`, progress, waited, stop);
    host.append(line);
    try {
      let job = await ctx.data.send("POST", `${ctx.base}/jobs`, task);
      const end = () => ctx.data.send("DELETE", `${ctx.base}/jobs/${job.job}`).catch(() => {});
      stop.addEventListener("click", end);
      if (!isWanted) await end();
      while (job.state === "waiting" || job.state === "running") {
        await new Promise((resolve) => setTimeout(resolve, 400));
        const answer = await ctx.data.ask(`${ctx.base}/jobs/${job.job}`);
        if (answer.status >= 400) throw new Error("It was cancelled.");
        job = JSON.parse(new TextDecoder().decode(answer.bytes));
        if (job.progress > 0) progress.value = job.progress;
        waited.textContent = job.state === "waiting" ? "waiting for other work" : `${Math.round((Date.now() - began) / 1000)} s`;
      }
      if (job.state !== "done") {
        await ctx.data.send("DELETE", `${ctx.base}/jobs/${job.job}`).catch(() => {});
        throw new Error(job.error || "It was cancelled.");
      }
      ctx.data.forget();
      if (host.isConnected) ctx.redraw();
    } catch (error) {
      line.remove();
      event.target.disabled = false;
      host.append(trouble(error));
    }
  } }, label));
  return host;
}
