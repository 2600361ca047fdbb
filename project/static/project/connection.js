/**
 * One room's WebSocket, opened again for as long as that makes sense.
 *
 * The rule for close codes: 1000 or >= 4500 means stop; anything else means come back, after a random wait.
 */

/** @typedef {"connecting" | "live" | "reconnecting" | "stopped"} State */
/** @typedef {{MESSAGE_ID: string, message: Record<string, unknown>, room?: string, id?: string}} Envelope */
/** @typedef {{process?: string, code?: number, reason?: string}} Details */
/**
 * @typedef {object} Handlers
 * @property {(state: State, details: Details) => void} onState
 * @property {(envelope: Envelope) => void} onMessage
 */

// With this subprotocol the server says first who it is: `sys.hello`.
const SUBPROTOCOL = "rooms.v1";
const BASE_MS = 500;
const CAP_MS = 15_000;
// A connection that was live for less does not count as a success: its server may be failing over and over.
const STEADY_MS = 5_000;
// Browsers themselves give a connection minutes to open.
const CONNECT_MS = 10_000;

/** A wait in milliseconds before the next attempt: full jitter, so that clients do not come back all at once. */
export function backoff(/** @type {number} */ attempt) {
  return Math.random() * Math.min(CAP_MS, BASE_MS * 2 ** attempt);
}

/** Whether a close code asks the client not to come back. */
export function isFinal(/** @type {number} */ code) {
  return code === 1000 || code >= 4500;
}

export class RoomConnection {
  /** @type {string} */ #url;
  /** @type {Handlers} */ #handlers;
  /** @type {WebSocket | null} */ #socket = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  /** Whether the timer is a wait before the next attempt, which a sign of life from outside may cut short. */
  #isWaiting = false;
  #attempt = 0;
  /** @type {number | null} */ #liveSince = null;

  /**
   * @param {string} url
   * @param {Handlers} handlers
   */
  constructor(url, handlers) {
    this.#url = url;
    this.#handlers = handlers;
  }

  /** Connect, and stay connected until `close()` or until the server says to stop. Opening twice is opening once. */
  open() {
    this.close();
    window.addEventListener("online", this.#wake);
    document.addEventListener("visibilitychange", this.#wake);
    this.#attempt = 0;
    this.#connect("connecting");
  }

  /** Leave for good; nothing is reported any more. */
  close() {
    window.removeEventListener("online", this.#wake);
    document.removeEventListener("visibilitychange", this.#wake);
    this.#drop();
  }

  /** Try at once instead of waiting for the next attempt. */
  retry() {
    if (this.#isWaiting) {
      this.#connect("reconnecting");
    }
  }

  #wake = () => {
    if (document.visibilityState === "visible") {
      this.retry();
    }
  };

  /** @param {State} state */
  #connect(state) {
    this.#drop();
    this.#handlers.onState(state, {});
    const socket = new WebSocket(this.#url, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#ended(1006, "It took too long to connect."), CONNECT_MS);
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#ended(event.code, event.reason);
  }

  /** @param {unknown} data */
  #receive(data) {
    const envelope = parse(data);
    if (envelope === null) {
      return; // a raw broadcast need not be an envelope
    }
    if (envelope.MESSAGE_ID === "sys.hello") {
      clearTimeout(this.#timer);
      this.#liveSince = performance.now();
      this.#handlers.onState("live", { process: String(envelope.message.process ?? "") });
    } else if (!envelope.MESSAGE_ID.startsWith("sys.")) {
      this.#handlers.onMessage(envelope);
    }
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #ended(code, reason) {
    if (this.#liveSince !== null && performance.now() - this.#liveSince >= STEADY_MS) {
      this.#attempt = 0;
    }
    this.#drop();
    if (isFinal(code)) {
      this.close();
      this.#handlers.onState("stopped", { code, reason });
      return;
    }
    this.#isWaiting = true;
    this.#timer = setTimeout(() => this.retry(), backoff(this.#attempt));
    this.#attempt += 1;
    this.#handlers.onState("reconnecting", { code, reason });
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#isWaiting = false;
    this.#liveSince = null;
    if (this.#socket !== null) {
      // A socket that is being closed may still have frames to report, of a room one has left.
      this.#socket.onmessage = null;
      this.#socket.onclose = null;
      this.#socket.close();
      this.#socket = null;
    }
  }
}

/**
 * @param {unknown} data
 * @returns {Envelope | null}
 */
function parse(data) {
  if (typeof data !== "string") {
    return null;
  }
  try {
    const value = JSON.parse(data);
    const isEnvelope = typeof value?.MESSAGE_ID === "string" && typeof value.message === "object" && value.message;
    return isEnvelope ? value : null;
  } catch {
    return null;
  }
}
