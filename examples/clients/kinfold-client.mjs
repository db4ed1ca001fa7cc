// A client of a running kinfold node: one file, no dependency, Node 20 or later.
//
//   import { Client } from "./kinfold-client.mjs";
//
//   const node = await Client.connect("/home/me/.local/share/kinfold");
//   await node.call("sync.append", { surface: "registry:note", payload: { id: "today", text: "bread" } });
//   for await (const change of await node.subscribe({ surface: "registry:note" })) console.log(change);
//
// `Client.connect(home)` speaks over the Unix socket, `Client.connect(home, { websocket: true })` over the
// WebSocket on loopback, which does the same. The node describes its methods: `node.call("rpc.discover")`.

import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { request } from "node:http";
import { createConnection } from "node:net";
import { join } from "node:path";
import { StringDecoder } from "node:string_decoder";

/** The node refused a request and says why. */
export class Refused extends Error {
  constructor({ code, message, data = {} }) {
    super([message, ...(data.causes ?? [])].join(": ") + (data.hint ? ` (${data.hint})` : ""));
    this.name = "Refused";
    /** The JSON-RPC code; `kind` says more. */
    this.code = code;
    /** The name of what went wrong, stable for programs. */
    this.kind = data.kind;
    /** Who is to change something: local, peer or environment. */
    this.blame = data.blame;
    /** What to do, where there is something to do. */
    this.hint = data.hint;
    this.data = data;
  }
}

/** The connection to the node ended before an answer came. */
export class Disconnected extends Error {
  constructor(message = "the node closed the connection before it answered") {
    super(message);
    this.name = "Disconnected";
  }
}

/** A connection to the node that runs in a home. */
export class Client {
  #link;
  #last = 0;
  #waiting = new Map();
  #subscriptions = new Map();
  #early = new Map();
  #isOpen = true;

  static async connect(home, { websocket = false } = {}) {
    return new Client(websocket ? await openWebSocket(home) : await openUnixSocket(home));
  }

  constructor(link) {
    this.#link = link;
    link.onText = (text) => this.#hear(JSON.parse(text));
    link.onEnd = () => this.#end();
  }

  /** Calls a method; rejects with Refused or Disconnected. */
  call(method, params = {}) {
    if (!this.#isOpen) return Promise.reject(new Disconnected("the connection has ended"));
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#link.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    });
  }

  /**
   * Follows changes: from now on, or from `after` on, the bookmark of an earlier subscription.
   *
   * The iterator goes on by itself where it fell behind, so it misses nothing; keep its `bookmark` beside
   * what you make of the changes to go on after a restart.
   */
  async subscribe({ scope, surface, after } = {}) {
    const subscription = new Subscription(this, { scope, surface }, after);
    await subscription.start();
    return subscription;
  }

  /** Ends the connection; iterators end, and waiting calls reject. */
  close() {
    this.#link.close();
  }

  /** Where the notices of a subscription go; those that came before its answer go there first. */
  listen(number, hear) {
    this.#subscriptions.set(number, hear);
    for (const notice of this.#early.get(number) ?? []) hear(notice);
    this.#early.delete(number);
    if (!this.#isOpen) hear(null);
  }

  /** Hears no more of a subscription. */
  forget(number) {
    this.#subscriptions.delete(number);
  }

  #hear(message) {
    if (message.method === undefined) {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error) waiting?.reject(new Refused(message.error));
      else waiting?.resolve(message.result);
      return;
    }
    const number = message.params.subscription;
    const hear = this.#subscriptions.get(number);
    if (hear) hear(message);
    else if (number) this.#early.set(number, [...(this.#early.get(number) ?? []), message]);
  }

  #end() {
    this.#isOpen = false;
    for (const { reject } of this.#waiting.values()) reject(new Disconnected());
    this.#waiting.clear();
    for (const hear of this.#subscriptions.values()) hear(null);
  }
}

/** Changes as an async iterator that resumes by itself. */
class Subscription {
  #client;
  #params;
  #number;
  #notices = [];
  #wake = () => {};

  constructor(client, params, after) {
    this.#client = client;
    this.#params = params;
    /** The place after the last change that was returned: what `subscribe` takes as `after`. */
    this.bookmark = after;
  }

  async start() {
    const begun = await this.#client.call("sync.subscribe", { ...this.#params, after: this.bookmark });
    this.#number = begun.subscription;
    this.bookmark = begun.bookmark;
    this.#client.listen(this.#number, (notice) => {
      this.#notices.push(notice);
      this.#wake();
    });
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    for (;;) {
      while (this.#notices.length === 0) await new Promise((wake) => (this.#wake = wake));
      const notice = this.#notices.shift();
      if (notice === null) return { done: true, value: undefined };
      const { method, params } = notice;
      if (method === "sync.changed") {
        const log = `${params.device_id}/${params.incarnation}`;
        const { frontier } = this.bookmark;
        frontier[log] = Math.max(frontier[log] ?? 0, params.seq);
        return { done: false, value: params };
      }
      this.#client.forget(this.#number);
      if (method === "sync.ended") throw new Refused(params.error);
      this.bookmark = params.resume_after;
      await this.start();
    }
  }

  /** Ends the subscription; the connection stays. */
  async return() {
    this.#client.forget(this.#number);
    await this.#client.call("sync.unsubscribe", { subscription: this.#number });
    return { done: true, value: undefined };
  }
}

/** One JSON text per line. */
async function openUnixSocket(home) {
  const socket = createConnection(join(home, "control.sock"));
  await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  const decoder = new StringDecoder("utf8");
  const link = { send: (text) => socket.write(text + "\n"), close: () => socket.destroy() };
  let parts = [];
  socket.on("data", (bytes) => {
    const lines = decoder.write(bytes).split("\n");
    parts.push(lines.shift());
    for (const line of lines) {
      link.onText(parts.join(""));
      parts = [line];
    }
  });
  socket.on("error", () => {}).on("close", () => link.onEnd());
  return link;
}

/** One JSON text per message, with the token from the node's home. */
async function openWebSocket(home) {
  const port = await readFile(join(home, "control.port"), "ascii");
  const token = await readFile(join(home, "control.token"), "ascii");
  if (globalThis.WebSocket === undefined) return shakeHands(port, token);
  const socket = new WebSocket(`ws://127.0.0.1:${port}`, ["kinfold", `token.${token}`]);
  const link = { send: (text) => socket.send(text), close: () => socket.close() };
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Disconnected("the node refused the WebSocket"));
  });
  socket.onmessage = ({ data }) => link.onText(data);
  socket.onclose = () => link.onEnd();
  return link;
}

/** A WebSocket (RFC 6455) where the runtime has none: Node before 22. */
async function shakeHands(port, token) {
  const asking = request({
    host: "127.0.0.1",
    port,
    headers: {
      Connection: "Upgrade",
      Upgrade: "websocket",
      "Sec-WebSocket-Version": "13",
      "Sec-WebSocket-Key": randomBytes(16).toString("base64"),
      Authorization: `Bearer ${token}`,
    },
  });
  const socket = await new Promise((resolve, reject) => {
    asking.on("upgrade", (_, socket) => resolve(socket));
    asking.on("response", ({ statusCode }) => reject(new Disconnected(`the node refused the WebSocket: ${statusCode}`)));
    asking.on("error", reject).end();
  });
  const link = { send: (text) => socket.write(frame(1, Buffer.from(text))), close: () => socket.destroy() };
  let chunks = [];
  let held = 0;
  let wanted = 2;
  socket.on("data", (bytes) => {
    chunks.push(bytes);
    held += bytes.length;
    if (held < wanted) return;
    let rest = chunks.length === 1 ? bytes : Buffer.concat(chunks);
    for (let found = cut(rest); ; found = cut(rest)) {
      if (found.wanted) {
        wanted = found.wanted;
        break;
      }
      rest = rest.subarray(found.end);
      if (found.kind === 1) link.onText(found.payload.toString());
      else if (found.kind === 8) socket.end(frame(8, found.payload));
      else if (found.kind === 9) socket.write(frame(10, found.payload));
    }
    chunks = [rest];
    held = rest.length;
  });
  socket.on("error", () => {}).on("close", () => link.onEnd());
  return link;
}

/** The first frame of some bytes, or how many bytes are wanted to tell. */
function cut(bytes) {
  if (bytes.length < 2) return { wanted: 2 };
  const short = bytes[1];
  const start = short < 126 ? 2 : short === 126 ? 4 : 10;
  if (bytes.length < start) return { wanted: start };
  const length = short < 126 ? short : short === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
  const end = start + length;
  if (bytes.length < end) return { wanted: end };
  return { kind: bytes[0] & 15, payload: bytes.subarray(start, end), end };
}

function frame(kind, payload) {
  const { length } = payload;
  const head = Buffer.alloc(length < 126 ? 2 : length < 65536 ? 4 : 10);
  head[0] = 128 | kind;
  head[1] = 128 | (length < 126 ? length : length < 65536 ? 126 : 127);
  if (head.length === 4) head.writeUInt16BE(length, 2);
  if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2);
  const mask = randomBytes(4);
  const masked = Buffer.from(payload);
  for (let at = 0; at < length; at++) masked[at] ^= mask[at & 3];
  return Buffer.concat([head, mask, masked]);
}
