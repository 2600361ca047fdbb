/** What rooms.js runs on in the tests: a clock that goes on when it is told to, and sockets without a network. */

import { register } from "node:module";

// Browsers are told that it is a module by their script tag, node by its format.
const asModule = `(url, context, next) =>
  next(url, url.endsWith("/rooms.js") ? { ...context, format: "module" } : context)`;
register(`data:text/javascript,export const load = ${encodeURIComponent(asModule)};`);
export const { connect, Rooms } = await import("../../rooms_app/static/rooms_app/rooms.js");

/** Timers that run when `advance` comes to them, in their order. */
class Clock {
  time = 0;
  #set = 1_000_000_000_000;
  #timers = new Map();
  #last = 0;

  now = () => this.time + this.#set;

  setTimeout = (callback, ms) => {
    this.#timers.set(++this.#last, { at: this.time + ms, callback });
    return this.#last;
  };

  clearTimeout = (timer) => void this.#timers.delete(timer);

  get waiting() {
    return this.#timers.size;
  }

  /** Let so many milliseconds pass. */
  advance(ms) {
    const end = this.time + ms;
    for (;;) {
      const [timer, due] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!due || due.at > end) {
        break;
      }
      this.#timers.delete(timer);
      this.time = due.at;
      due.callback();
    }
    this.time = end;
  }

  /** The clock is set, or the computer sleeps: timers do not see that. */
  jump(ms) {
    this.#set += ms;
  }
}

/** One side of a connection; the test plays the server with `says` and `closes`. */
class FakeWebSocket {
  onmessage = null;
  onclose = null;
  onerror = null;
  closedWith = null;

  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocols = protocols;
  }

  get query() {
    return Object.fromEntries(this.url.searchParams);
  }

  close(code) {
    this.closedWith = code; // and no close event: as if the other side were gone
  }

  /** A frame from the server. */
  says(MESSAGE_ID, message = {}, more = {}) {
    this.brings(JSON.stringify({ MESSAGE_ID, message, ...more }));
  }

  brings(data) {
    this.onmessage?.({ data });
  }

  /** The first frames of a server: hello, then its answer to `since`. */
  goesLive({ answer = "sys.resumed", message = { replayed: 0 }, id } = {}) {
    this.says("sys.hello", { connection: "c1", process: "p1", rooms: ["lobby"] });
    this.says(answer, message, id === undefined ? {} : { id });
  }

  closes(code, reason = "") {
    this.onclose?.({ code, reason });
  }
}

/** A document or a window, with the number of its listeners. */
class Target extends EventTarget {
  visibilityState = "visible";
  #listeners = new Set();

  get listeners() {
    return this.#listeners.size;
  }

  addEventListener(type, listener) {
    this.#listeners.add(listener);
    super.addEventListener(type, listener);
  }

  removeEventListener(type, listener) {
    this.#listeners.delete(listener);
    super.removeEventListener(type, listener);
  }

  tell(type) {
    this.dispatchEvent(new Event(type));
  }
}

/** A connection in a world of its own: what it opened, and what it reported. */
export function page(url = "ws://server/ws/lobby", options = {}) {
  const clock = new Clock();
  const sockets = [];
  const world = {
    WebSocket: class extends FakeWebSocket {
      constructor(...args) {
        super(...args);
        sockets.push(this);
      }
    },
    setTimeout: clock.setTimeout,
    clearTimeout: clock.clearTimeout,
    now: clock.now,
    random: () => 0.5,
    document: new Target(),
    window: new Target(),
  };
  const rooms = connect(url, { ...world, ...options });
  const statuses = [];
  const resets = [];
  rooms.onStatus((status) => statuses.push(status));
  rooms.onReset(({ reason }) => resets.push(reason));
  return {
    ...world,
    clock,
    rooms,
    sockets,
    statuses,
    resets,
    /** The socket that was opened last. */
    get socket() {
      return sockets.at(-1);
    },
    get states() {
      return statuses.map(({ state }) => state);
    },
    /** The connection is lost, and made again; it is not live yet. */
    comesBack(code = 1006) {
      this.socket.closes(code);
      clock.advance(rooms.status.delay);
    },
  };
}
