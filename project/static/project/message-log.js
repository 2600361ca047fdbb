/** The list of messages: what it shows, and where the reader is in it. */

const MAX_SHOWN = 500;
// Messages of one person within this time stand together, under one name.
const TOGETHER_MS = 5 * 60_000;

/** The messages of a room. Sticks to the newest, unless the reader has scrolled up. */
export class MessageLog {
  /** @type {HTMLElement} */ #list;
  /** @type {HTMLElement} */ #empty;
  /** @type {HTMLElement} */ #more;
  #sticks = true;
  #unread = 0;
  /** @type {{userId: string, at: number} | null} */ #last = null;

  /** @param {{list: HTMLElement, empty: HTMLElement, more: HTMLElement}} elements */
  constructor({ list, empty, more }) {
    this.#list = list;
    this.#empty = empty;
    this.#more = more;
    this.#list.addEventListener("scroll", () => {
      this.#sticks = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 48;
      if (this.#sticks) {
        this.#read();
      }
    });
    this.#more.addEventListener("click", () => {
      this.#toNewest();
      this.#list.focus({ preventScroll: true }); // the button goes away, and the focus must be somewhere
    });
    // A composer that grows, or a phone's keyboard, must not cover the newest message.
    new ResizeObserver(() => this.#sticks && this.#toNewest()).observe(this.#list);
  }

  clear() {
    this.#list.replaceChildren();
    this.#empty.hidden = false;
    this.#last = null;
    this.#toNewest();
  }

  /** @param {Record<string, unknown>} message @param {{isOwn: boolean, aside: string}} how */
  add(message, { isOwn, aside }) {
    const userId = String(message.user_id);
    const at = new Date(String(message.timestamp));
    const isTogether = this.#last?.userId === userId && !aside && at.getTime() - this.#last.at < TOGETHER_MS;
    this.#last = aside ? null : { userId, at: at.getTime() };

    const item = make("article", "message arrives");
    item.classList.toggle("own", isOwn);
    item.classList.toggle("follows", isTogether);
    const name = String(message.username);
    const avatar = make("span", "avatar", name.startsWith("guest-") ? name.slice(-2) : [...name][0]?.toUpperCase());
    avatar.setAttribute("aria-hidden", "true");
    avatar.style.setProperty("--hue", String(hueOf(userId)));
    const time = make("time", "", at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
    time.setAttribute("datetime", String(message.timestamp));
    time.title = at.toLocaleString();
    const meta = make("p", "meta");
    meta.append(make("bdi", "who", isOwn ? "You" : name), time, aside && make("span", "aside", aside));
    const text = make("p", "text", String(message.content));
    text.dir = "auto";
    const said = make("div", "said");
    said.append(meta, text);
    item.append(avatar, said);
    this.#append(item, isOwn);
    if (!this.#sticks) {
      this.#unread += 1;
      this.#more.textContent = this.#unread === 1 ? "1 new message" : `${this.#unread} new messages`;
      this.#more.hidden = false;
    }
  }

  /** Say that here is a place where something may be missing. @param {string} text */
  addGap(text) {
    if (this.#list.lastElementChild?.matches(".message")) {
      this.#last = null;
      this.#append(make("p", "gap", text), false);
    }
  }

  /** @param {HTMLElement} item @param {boolean} isOwn */
  #append(item, isOwn) {
    this.#empty.hidden = true;
    this.#list.append(item);
    // Not while somebody reads further up: the text would move under the reader's eyes.
    while (this.#sticks && this.#list.childElementCount > MAX_SHOWN) {
      this.#list.firstElementChild?.remove();
    }
    if (this.#sticks || isOwn) {
      this.#toNewest();
    }
  }

  #toNewest() {
    this.#sticks = true;
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#read();
  }

  #read() {
    this.#unread = 0;
    this.#more.hidden = true;
  }
}

/** An element that holds text, never markup. @param {string} tag @param {string} className @param {string} [text] */
function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** The same colour for the same person on every screen. @param {string} userId */
function hueOf(userId) {
  return [...userId].reduce((hash, character) => (hash * 31 + (character.codePointAt(0) ?? 0)) % 360, 7);
}
