/**
 * The messages of rooms in a page: one WebSocket that comes back by itself, and goes on where it was.
 *
 * The rule for close codes: 1000 or >= 4500, stop; anything else, come back after a random wait.
 */

/** @template [T=any] @typedef {{MESSAGE_ID: string, message: T, room?: string, id?: string}} Envelope */
/** @typedef {{connection: string, process: string, rooms: string[]}} Hello who answers, and what was joined */
/** @typedef {{reason: string}} Reset `epoch`, `trimmed`, `limit` or `no_history` */
/**
 * The server's own messages.
 * @typedef {{"sys.hello": Hello, "sys.resumed": {replayed: number}, "sys.reset": Reset, "sys.ping": {},
 *   "sys.closing": {code: number, reason: string, retry_after_ms: number}}} ProtocolMessages
 */
/**
 * How the connection is. `isFirst`: live for the first time; `replayed`: how many messages it had missed and got;
 * `delay`: milliseconds until the next attempt, 0 while one is made; `attempt`: how many failed in a row.
 * @typedef {{state: "connecting"}
 *   | {state: "live", isFirst: boolean, replayed: number} & Partial<Hello>
 *   | {state: "reconnecting", delay: number, attempt: number, code: number, reason: string}
 *   | {state: "stopped", code: number, reason: string}} Status
 */
/**
 * `since`: the cursor at which the server read what the page shows; without one, messages come from now on.
 * `ping`: after so many silent seconds the server gives a sign of life; 1 to 3600, 25 if not given.
 * @typedef {{since?: string | null, ping?: number} & Partial<ReturnType<typeof realWorld>>} Options
 */

const SUBPROTOCOL = "rooms.v1";
const LATEST = "latest";
const BASE_MS = 500;
const CAP_MS = 30_000;
const STEADY_MS = 5_000; // Live for less is no success: the server may be failing over and over.
const CONNECT_MS = 10_000; // Browsers themselves wait for minutes.
const LATE_MS = 4_000; // How late a sign of life may be.
const SETTLE_MS = 1_000; // After a sleep, timers run before the frames that came meanwhile: time to see those.
// Keys of handlers, beside the MESSAGE_IDs.
const STATUS = Symbol("status");
const RAW = Symbol("raw");

/**
 * Connect, and stay connected until `close()` or until the server says to stop.
 *
 * Add your handlers before the next `await`: then they are there when the first message comes.
 *
 * @template {object} [M=Record<string, any>] your messages by MESSAGE_ID
 * @param {string | URL} url its query parameters are kept
 * @param {Options} [options]
 */
export function connect(url, options) {
  const rooms = /** @type {Rooms<M>} */ (new Rooms(url, options));
  rooms.reconnect();
  return rooms;
}

/** A connection for as long as the page wants one. @template {object} [M=Record<string, any>] */
export class Rooms {
  /** @type {ReturnType<typeof realWorld>} */ #world;
  /** @type {URL} */ #url;
  /** @type {number} */ #pingMs;
  /** The last id seen, or "": everything due to this page up to it has come. @type {string} */ #cursor;
  /** @type {Map<string | symbol, Set<{handler: (...args: any[]) => void}>>} */ #handlers = new Map();
  /** @type {Status} */ #status = { state: "stopped", code: 1000, reason: "" };
  /** Whether `close()` was called: nothing is reported any more. */ #isClosed = false;
  /** null while it waits, and while it is stopped. @type {WebSocket | null} */ #socket = null;
  /** The wait before the next attempt, or the watch over the socket. @type {any} */ #timer;
  #attempt = 0;
  /** Before this it makes no attempt of its own: the server asked for that. */ #notBefore = 0;
  #wasLive = false;
  /** @type {number | null} */ #liveSince = null;
  #heardAt = 0;
  /** How long the socket may be silent now. */ #patience = CONNECT_MS;
  /** The last protocol messages on this socket. @type {Partial<ProtocolMessages> & Record<string, any>} */ #said = {};

  /** `connect` makes one and opens it. @param {string | URL} url @param {Options} [options] */
  constructor(url, options = {}) {
    this.#world = { ...realWorld(), ...options };
    this.#url = new URL(url, this.#world.document?.baseURI ?? globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    const query = this.#url.searchParams;
    const since = options.since ?? query.get("since") ?? LATEST;
    this.#cursor = since === LATEST ? "" : since;
    const ping = options.ping ?? Number(query.get("ping") ?? 25);
    if (!Number.isInteger(ping) || ping < 1 || ping > 3600) {
      throw new RangeError(`ping: 1 to 3600 whole seconds, not ${ping}`);
    }
    query.set("ping", String(ping));
    this.#pingMs = ping * 1000;
  }

  /** How the connection is now. @returns {Status} */
  get status() {
    return this.#status;
  }

  /** The last id seen, where a new connection would go on from; "" where there is no history. */
  get cursor() {
    return this.#cursor;
  }

  /**
   * Have a handler called with each message of a type.
   *
   * @template {keyof (M & ProtocolMessages) & string} K
   * @param {K} MESSAGE_ID
   * @param {(message: (M & ProtocolMessages)[K], envelope: Envelope<(M & ProtocolMessages)[K]>) => void} handler
   * @returns {() => void} takes the handler off again, as for the others below
   */
  on(MESSAGE_ID, handler) {
    return this.#add(MESSAGE_ID, handler);
  }

  /** Have a handler called at once, and with each change of the status. @param {(status: Status) => void} handler */
  onStatus(handler) {
    handler(this.#status);
    return this.#add(STATUS, handler);
  }

  /** Have it called when messages may be missing: load your state anew. @param {(reset: Reset) => void} handler */
  onReset(handler) {
    return this.#add("sys.reset", handler);
  }

  /** Have it called with raw broadcasts: what is no envelope. @param {(data: string | ArrayBuffer) => void} handler */
  onRaw(handler) {
    return this.#add(RAW, handler);
  }

  /** Open at once: instead of waiting, anew, or again after a stop. */
  reconnect() {
    if (this.#status.state === "stopped") {
      this.#isClosed = false;
      this.#attempt = 0;
      this.#world.document?.addEventListener("visibilitychange", this.#wake);
      this.#world.window?.addEventListener("online", this.#wake);
    }
    this.#open();
  }

  /** Leave for good; no handler is called any more. */
  close() {
    this.#isClosed = true;
    this.#stop(1000, "");
  }

  #open() {
    this.#drop();
    this.#url.searchParams.set("since", this.#cursor || LATEST);
    const socket = new this.#world.WebSocket(this.#url.href, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#said = {};
    // Without a cursor there is nothing to go on from: what was sent since the last connection is lost.
    const isLossy = this.#wasLive && !this.#cursor;
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => this.#receive(event.data, isLossy);
    socket.onclose = (event) => this.#ended(event.code, event.reason);
    socket.onerror = () => {}; // A close follows; node's `ws` throws an error that nobody handles.
    this.#heardAt = this.#world.now();
    this.#patience = CONNECT_MS;
    this.#watch();
    const status = this.#status;
    this.#report(status.state === "reconnecting" ? { ...status, delay: 0 } : { state: "connecting" });
  }

  /** @param {string | ArrayBuffer} data @param {boolean} isLossy whether the answer to `since` means a reset */
  #receive(data, isLossy) {
    this.#heardAt = this.#world.now();
    this.#patience = 2 * this.#pingMs + LATE_MS;
    const envelope = parse(data);
    if (envelope === null) {
      return this.#emit(RAW, data);
    }
    const { MESSAGE_ID, message, id } = envelope;
    if (typeof id === "string" && id && id.length <= 64) {
      this.#cursor = id;
    }
    if (MESSAGE_ID.startsWith("sys.")) {
      this.#said[MESSAGE_ID] = message;
    }
    if (this.#liveSince === null && (MESSAGE_ID === "sys.resumed" || MESSAGE_ID === "sys.reset")) {
      const isFirst = !this.#wasLive;
      this.#wasLive = true;
      this.#liveSince = this.#heardAt;
      this.#report({ ...this.#said["sys.hello"], state: "live", isFirst, replayed: message.replayed ?? 0 });
    }
    this.#emit(MESSAGE_ID, message, envelope);
    if (isLossy && MESSAGE_ID === "sys.resumed") {
      const reset = { reason: "no_history" };
      this.#emit("sys.reset", reset, { MESSAGE_ID: "sys.reset", message: reset });
    }
  }

  /** @param {number} closeCode @param {string} closeReason */
  #ended(closeCode, closeReason) {
    // Its own word comes first: daphne's close frames have no reason, and a connection that is cut has no code.
    const { code = closeCode, reason = closeReason, retry_after_ms: atLeast = 0 } = this.#said["sys.closing"] ?? {};
    const now = this.#world.now();
    if (this.#liveSince !== null && now - this.#liveSince >= STEADY_MS) {
      this.#attempt = 0;
    }
    this.#drop();
    if (code === 1000 || code >= 4500) {
      return this.#stop(code, reason);
    }
    // Full jitter, so that clients do not come back all at once.
    const delay = atLeast + this.#world.random() * Math.min(CAP_MS, BASE_MS * 2 ** this.#attempt);
    this.#attempt += 1;
    this.#notBefore = now + atLeast;
    this.#wait(() => this.#open(), delay);
    this.#report({ state: "reconnecting", delay, attempt: this.#attempt, code, reason });
  }

  /** A browser does not notice by itself that the other side has gone. */
  #watch() {
    const now = this.#world.now();
    const heardAt = (this.#heardAt = Math.min(this.#heardAt, now)); // A clock can be set back.
    const left = heardAt + this.#patience - now;
    if (left > 0) {
      this.#wait(() => this.#watch(), left);
    } else {
      this.#wait(() => (this.#heardAt === heardAt ? this.#ended(1006, "silent") : this.#watch()), SETTLE_MS);
    }
  }

  /** The page is looked at again, or the network is back. @type {(event: Event) => void} */
  #wake = ({ type }) => {
    if (type === "visibilitychange" && this.#world.document?.visibilityState !== "visible") {
      return;
    }
    const now = this.#world.now();
    if (this.#socket === null && now >= this.#notBefore) {
      this.#open();
    } else if (this.#socket !== null && now - this.#heardAt > this.#pingMs + LATE_MS) {
      this.#patience = 0; // until it is heard of
      this.#watch();
    }
  };

  /** @param {number} code @param {string} reason */
  #stop(code, reason) {
    this.#world.document?.removeEventListener("visibilitychange", this.#wake);
    this.#world.window?.removeEventListener("online", this.#wake);
    this.#drop();
    this.#report({ state: "stopped", code, reason });
  }

  /** Forget the socket at once: a half-open one takes its time to close, and what it still brings is not wanted. */
  #drop() {
    this.#world.clearTimeout(this.#timer);
    this.#liveSince = null;
    if (this.#socket !== null) {
      this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close(1000);
      this.#socket = null;
    }
  }

  /** @param {() => void} callback @param {number} ms */
  #wait(callback, ms) {
    this.#world.clearTimeout(this.#timer);
    this.#timer = this.#world.setTimeout(callback, ms);
  }

  /** @param {Status} status */
  #report(status) {
    this.#status = status;
    this.#emit(STATUS, status);
  }

  /** @param {string | symbol} key @param {(...args: any[]) => void} handler @returns {() => void} */
  #add(key, handler) {
    const entries = this.#handlers.get(key) ?? new Set();
    const entry = { handler }; // Of its own: the same function can be added twice.
    this.#handlers.set(key, entries.add(entry));
    return () => void entries.delete(entry);
  }

  /** @param {string | symbol} key @param {any[]} args */
  #emit(key, ...args) {
    const entries = this.#handlers.get(key) ?? new Set();
    for (const entry of [...entries]) {
      // A handler may take off another one, or close.
      if (this.#isClosed || !entries.has(entry)) {
        continue;
      }
      try {
        entry.handler(...args);
      } catch (error) {
        (globalThis.reportError ?? console.error)(error);
      }
    }
  }
}

/** @param {unknown} data @returns {Envelope | null} */
function parse(data) {
  try {
    const value = typeof data === "string" ? JSON.parse(data) : null;
    return typeof value?.MESSAGE_ID === "string" && typeof value.message === "object" && value.message ? value : null;
  } catch {
    return null;
  }
}

/** What a browser has; a worker has no document, node has neither. Each part can be given as an option. */
function realWorld() {
  return {
    WebSocket: globalThis.WebSocket,
    setTimeout: (/** @type {() => void} */ callback, /** @type {number} */ ms) => setTimeout(callback, ms),
    clearTimeout: (/** @type {any} */ timer) => clearTimeout(timer),
    now: () => Date.now(), // Unlike performance.now(), it goes on while the computer sleeps.
    random: () => Math.random(),
    document: globalThis.document ?? null,
    window: "addEventListener" in globalThis ? globalThis : null,
  };
}
