/** The chat page: shows what a room's connection brings, and sends what is written by POST. */

import { connect } from "../rooms_app/rooms.js";
import { MessageLog } from "./message-log.js";
import { pageUrl, post } from "./post.js";
import { ReportPanel } from "./report.js";

/** @typedef {import("../rooms_app/rooms.js").Status} Status */
/** @typedef {{user_id: string, username: string, content: string, timestamp: string}} ChatMessage */
/** @typedef {import("../rooms_app/rooms.js").Envelope<ChatMessage>} Envelope */
/** @typedef {{"chat.message": ChatMessage} & import("./report.js").ReportMessages} Messages */

const DEFAULT_ROOM = "lobby";
const MAX_ROOM = 255;
const MAX_CONTENT = 4_000;
const POST_WORDS = {
  late: "The server did not answer: perhaps your message was sent, perhaps not.",
  unreachable: "The server can’t be reached. Your text is still here.",
};

const CLOSED_BECAUSE = new Map([
  [1000, "The server ended this connection."],
  [4500, "This room is only for visitors who are signed in."],
  [4501, "The server does not accept this room’s name."],
  [4503, "You were removed from this room."],
  [4504, "You have too many connections open. Close another window first."],
  [4505, "You are in too many rooms."],
  [4507, "You may not enter this room."],
]);

/** @template {HTMLElement} T @param {string} id @returns {T} */
const element = (id) => /** @type {T} */ (document.getElementById(id));

/** Change a text, if it is another one: a screen reader says it each time. @param {Element} where @param {string} text */
function say(where, text) {
  if (where.textContent !== text) {
    where.textContent = text;
  }
}

/** How many characters the server counts, which differs from `length` for emoji. @param {string} text */
const lengthOf = (text) => [...text].length;

/** Why no room can have this name, in words, or "". @param {string} room */
function problemOf(room) {
  if (lengthOf(room) > MAX_ROOM) {
    return `A room’s name has at most ${MAX_ROOM} characters.`;
  }
  // Browsers take "." and ".." in a URL for steps between folders, also when they are escaped.
  return /^\.{1,2}$|\n|\p{Surrogate}/u.test(room) ? "This can’t be the name of a room: please choose another." : "";
}

class Chat {
  #log = new MessageLog({
    list: element("messages"),
    empty: element("empty"),
    more: element("new-messages"),
  });
  #report = new ReportPanel(element("work"));
  #room = "";
  /** @type {import("../rooms_app/rooms.js").Rooms<Messages> | null} */ #connection = null;
  #unseen = 0;
  #isSending = false;
  #visited = new Set([DEFAULT_ROOM]);
  #status = element("status");
  #content = /** @type {HTMLTextAreaElement} */ (element("content"));
  #roomInput = /** @type {HTMLInputElement} */ (element("room"));

  start() {
    element("room-form").addEventListener("submit", (event) => this.#pickRoom(event));
    this.#roomInput.addEventListener("input", () => this.#roomInput.setCustomValidity(""));
    element("visited").addEventListener("click", (event) => this.#followLink(event));
    element("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#content.addEventListener("input", () => this.#fit());
    this.#content.addEventListener("keydown", (event) => {
      // While an input method composes a word, Enter belongs to it (229: Safari's way to say so).
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
        event.preventDefault();
        this.#send();
      }
    });
    element("retry").addEventListener("click", () => this.#connection?.reconnect());
    window.addEventListener("popstate", () => {
      // Also fired by links within the page, which change nothing here.
      if (roomOfPage() !== this.#room) {
        this.#enter(roomOfPage());
      }
    });
    document.addEventListener("visibilitychange", () => this.#nameTab());
    this.#enter(roomOfPage());
  }

  /** @param {string} room */
  #enter(room) {
    this.#connection?.close();
    this.#connection = null;
    this.#room = room;
    this.#visited.add(room);
    this.#roomInput.value = room;
    element("room-name").textContent = room;
    element("error").textContent = "";
    element("again").setAttribute("href", `?room=${encodeURIComponent(room.toWellFormed())}`);
    this.#listVisited();
    this.#log.clear();
    this.#nameTab();
    const problem = problemOf(room);
    if (problem) {
      this.#show("stopped", "refused", problem);
      return;
    }
    this.#connection = connect(pageUrl(`ws/${encodeURIComponent(room)}`));
    this.#connection.onStatus((status) => this.#changed(status));
    // No message is stored in the demo: it has nothing to load anew.
    this.#connection.onReset(() => this.#log.addGap("You may have missed messages here"));
    this.#connection.on("chat.message", (message, envelope) => this.#received(message, envelope));
    this.#report.follow(this.#connection);
  }

  /** @param {Status} status */
  #changed(status) {
    if (status.state === "live") {
      this.#show("live", "live", "");
      element("process").textContent = status.process ?? "–";
    } else if (status.state === "stopped") {
      const { code, reason } = status;
      const why = CLOSED_BECAUSE.get(code) ?? `The server refuses this connection: ${reason || code}.`;
      this.#show("stopped", code === 1000 ? "offline" : "refused", why);
    } else {
      const isLost = status.state === "reconnecting";
      this.#show(status.state, status.state, isLost ? "The connection was lost. Trying again …" : "");
    }
  }

  /** @param {Status["state"]} state @param {string} label @param {string} notice */
  #show(state, label, notice) {
    say(this.#status, label);
    this.#status.dataset.state = state;
    element("notice").hidden = !notice;
    element("notice").dataset.state = state;
    say(element("notice-text"), notice);
    element("retry").hidden = this.#connection === null;
    if (state !== "live") {
      element("process").textContent = "–";
    }
  }

  /** @param {ChatMessage} message @param {Envelope} envelope */
  #received(message, { room }) {
    const aside = room === "*" ? "to everyone" : room === this.#room ? "" : "to you";
    this.#log.add(message, { isOwn: message.user_id === document.body.dataset.userId, aside });
    this.#unseen += 1;
    this.#nameTab();
  }

  #nameTab() {
    this.#unseen = document.hidden ? this.#unseen : 0;
    document.title = `${this.#unseen ? `(${this.#unseen}) ` : ""}${this.#room} · Rooms`;
  }

  #listVisited() {
    const links = [...this.#visited].map((room) => {
      const link = document.createElement("a");
      link.href = `?room=${encodeURIComponent(room.toWellFormed())}`;
      link.textContent = room;
      link.toggleAttribute("aria-current", room === this.#room);
      const item = document.createElement("li");
      item.append(link);
      return item;
    });
    element("visited").replaceChildren(...links);
  }

  /** @param {MouseEvent} event */
  #followLink(event) {
    const link = /** @type {Element} */ (event.target).closest("a");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      this.#goTo(link.textContent ?? DEFAULT_ROOM);
    }
  }

  /** @param {SubmitEvent} event */
  #pickRoom(event) {
    event.preventDefault();
    const room = this.#roomInput.value.trim() || DEFAULT_ROOM;
    const problem = problemOf(room);
    if (problem) {
      this.#roomInput.setCustomValidity(problem);
      this.#roomInput.reportValidity();
      return;
    }
    this.#goTo(room);
    this.#content.focus();
  }

  /** @param {string} room */
  #goTo(room) {
    if (room !== this.#room) {
      history.pushState(null, "", `?room=${encodeURIComponent(room)}`);
      this.#enter(room);
    }
  }

  async #send() {
    const text = this.#content.value;
    if (this.#isSending || !text.trim()) {
      return;
    }
    this.#setSending(true);
    const room = this.#room;
    const problem = problemOf(room) || (await speak(room, text));
    this.#setSending(false);
    if (!problem && this.#content.value.startsWith(text)) {
      // What was written while this message was on its way stays.
      this.#content.setRangeText("", 0, text.length, "preserve");
      this.#fit();
    }
    if (room === this.#room) {
      element("error").textContent = problem;
    }
  }

  /** @param {boolean} isSending */
  #setSending(isSending) {
    this.#isSending = isSending;
    // Not `disabled`, which would take the focus away from who pressed it.
    element("send").setAttribute("aria-disabled", String(isSending));
  }

  #fit() {
    this.#content.style.height = "auto";
    this.#content.style.height = `${this.#content.scrollHeight}px`;
    const length = lengthOf(this.#content.value.trim());
    const count = element("count");
    count.hidden = length < MAX_CONTENT * 0.9;
    count.textContent = `${length.toLocaleString()} / ${MAX_CONTENT.toLocaleString()}`;
    count.toggleAttribute("data-over", length > MAX_CONTENT);
  }
}

/** Send a message; what came in its way, in words, or "". @param {string} room @param {string} content */
async function speak(room, content) {
  const path = `chat/${encodeURIComponent(room)}/message`;
  return (await post(path, { content }, POST_WORDS)).problem;
}

function roomOfPage() {
  return new URLSearchParams(location.search).get("room") || DEFAULT_ROOM;
}

new Chat().start();
