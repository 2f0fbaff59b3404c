// What is asked, whoever answers: a server, files beside the page, or a notebook's kernel.

const PAUSES = [150, 250, 400, 600, 1000];
const MOST_KEPT = 400;

// Something that was not answered; the message says why.
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Asks a server.
export function server(base = "") {
  return async function ask(path, { method = "GET", body, signal } = {}) {
    let answer;
    try {
      answer = await fetch(base + path, { method, body, signal, headers: headersOf(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, "The server does not answer: it may have been stopped. Start crp explore again, and reload.");
    }
    return {
      status: answer.status, type: answer.headers.get("content-type") || "",
      shape: answer.headers.get("x-shape") || "", bytes: await answer.arrayBuffer(),
    };
  };
}

function headersOf(body) {
  if (body === undefined) return {};
  return { "content-type": typeof body === "string" ? "application/json" : "application/octet-stream" };
}

// What can be asked of one of the answerers above.
export class Data {
  constructor(ask) {
    this.ask = ask;
    this.kept = new Map();
    this.urls = new Map();
  }

  // A document.
  json(path) {
    return this.once(path, async () => JSON.parse(text((await this.answer(path)).bytes)));
  }

  // Numbers: float32, with their shape.
  floats(path) {
    return this.once(path, async () => shaped(await this.answer(path), Float32Array));
  }

  // Whole numbers: int32, with their shape.
  integers(path) {
    return this.once(path, async () => shaped(await this.answer(path), Int32Array));
  }

  // A document and the numbers that came with it.
  both(path, onProgress) {
    return this.once(path, async () => split((await this.answer(path, onProgress)).bytes));
  }

  // An address of a picture.
  picture(path, onProgress) {
    if (this.ask.url) return this.once(path, async () => this.ask.url(path));
    return this.once(path, async () => {
      const answer = await this.answer(path, onProgress);
      const url = URL.createObjectURL(new Blob([answer.bytes], { type: answer.type }));
      this.urls.set(path, url);
      return url;
    });
  }

  // A document that takes time.
  later(path, onProgress) {
    return this.once(path, async () => JSON.parse(text((await this.answer(path, onProgress)).bytes)));
  }

  // Numbers that take time.
  floatsLater(path, onProgress) {
    return this.once(path, async () => shaped(await this.answer(path, onProgress), Float32Array));
  }

  // Something that changes what is kept: everything is asked again afterwards.
  async send(method, path, body) {
    const answer = await this.ask(path, { method, body: isBytes(body) ? body : body && JSON.stringify(body) });
    if (answer.status >= 400) throw refusal(answer);
    return answer.bytes.byteLength ? JSON.parse(text(answer.bytes)) : null;
  }

  // Forget what begins with a path.
  forget(start = "") {
    for (const path of [...this.kept.keys()]) if (path.startsWith(start)) this.drop(path);
  }

  once(path, make) {
    if (this.kept.has(path)) {
      const found = this.kept.get(path);
      this.kept.delete(path);
      this.kept.set(path, found);
      return found;
    }
    const made = make();
    made.catch(() => this.kept.delete(path));
    this.kept.set(path, made);
    if (this.kept.size > MOST_KEPT) this.drop(this.kept.keys().next().value);
    return made;
  }

  drop(path) {
    this.kept.delete(path);
    if (this.urls.has(path)) setTimeout(URL.revokeObjectURL, 5000, this.urls.get(path));
    this.urls.delete(path);
  }

  // An answer; where it takes time, it is asked for until it is there.
  async answer(path, onProgress) {
    for (let turn = 0; ; turn += 1) {
      const answer = await this.ask(path);
      if (answer.status !== 202) {
        if (answer.status >= 400) throw refusal(answer);
        return answer;
      }
      const job = JSON.parse(text(answer.bytes));
      if (job.state === "cancelled" || job.state === "failed") throw new Refusal(503, job.error || "This was cancelled.");
      if (onProgress) onProgress(job);
      await new Promise((resolve) => setTimeout(resolve, PAUSES[Math.min(turn, PAUSES.length - 1)]));
      if (onProgress && onProgress(job) === false) throw new Refusal(503, "This was cancelled.");
    }
  }
}

const isBytes = (body) => body instanceof ArrayBuffer || ArrayBuffer.isView(body) || body instanceof Blob;
const text = (bytes) => new TextDecoder().decode(bytes);

function refusal(answer) {
  let message = `The answer was ${answer.status}.`;
  try {
    message = JSON.parse(text(answer.bytes)).error || message;
  } catch {
    // what is no JSON says nothing more
  }
  return new Refusal(answer.status, message);
}

function shaped(answer, Kind) {
  const values = new Kind(answer.bytes.slice(0, answer.bytes.byteLength & ~3));
  return { values, shape: answer.shape ? answer.shape.split(",").map(Number) : [values.length] };
}

function split(bytes) {
  const length = new DataView(bytes).getInt32(0, true);
  return {
    document: JSON.parse(text(bytes.slice(4, 4 + length))),
    numbers: new Float32Array(bytes.slice(4 + length)),
  };
}
