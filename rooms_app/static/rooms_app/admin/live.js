/**
 * The admin's pages of live rooms: what they show changes by itself, over a WebSocket that `websocket_application` has.
 *
 * Without the script, and where the socket can't be reached, the page stays as it was loaded.
 */

import { connect } from "../rooms.js";

/** @typedef {{room: string, connections: number}} RoomCount */
/** @typedef {{process: string, connections: number, rooms: number}} ProcessCount */
/**
 * What one page of the list shows.
 * @typedef {{rooms: RoomCount[], total_rooms: number, connections: number, processes: ProcessCount[]}} Listing
 */
/** `listing` is null while the counts can't be read. @typedef {{listing: Listing | null, has_more: boolean}} RoomsShown */
/** @typedef {{id: string, name: string}} Member */
/** @typedef {{connections: number | null, member_count: number, members: Member[]}} RoomShown */
/** @typedef {{id: string, since: string, process: string, path: string, rooms: string}} Connection */
/** @typedef {{connections: Connection[] | null}} UserShown */
/** @typedef {(string | number)[]} Entry the texts of a row; the first one names it */

const MAX_HELD_ROWS = 200;

/** The rows of a table, each under its name. Those that stay keep what is selected, and have the focus, in them. */
class Rows {
  /** @type {HTMLTableElement} */ #table;
  /** @type {HTMLTableSectionElement} */ #body;
  /** @type {HTMLTemplateElement} */ #template;
  /** What is to be shown; null while that is what the page was loaded with. @type {Entry[] | null} */ #entries = null;

  /** @param {HTMLElement} page @param {string} name of the table */
  constructor(page, name) {
    this.#table = /** @type {HTMLTableElement} */ (page.querySelector(`[data-table="${name}"]`));
    this.#template = /** @type {HTMLTemplateElement} */ (page.querySelector(`[data-row="${name}"]`));
    this.#body = this.#table.tBodies[0];
    // Afterwards: while the focus goes from one button to the next, it is nowhere.
    const arrange = () => setTimeout(() => this.#arrange());
    this.#body.addEventListener("pointerleave", arrange);
    this.#body.addEventListener("focusout", arrange);
  }

  /** @param {Entry[]} entries in their order */
  show(entries) {
    this.#entries = entries;
    this.#arrange();
  }

  #arrange() {
    if (this.#entries === null) {
      return;
    }
    const rows = new Map([...this.#body.rows].map((row) => [row.cells[0].textContent, row]));
    const wanted = new Map(this.#entries.map((entry) => [String(entry[0]), entry]));
    for (const [name, entry] of wanted) {
      const row = rows.get(name);
      if (row) {
        this.#update(row, entry);
      } else {
        rows.set(name, this.#add(entry));
      }
    }
    const gone = [...rows].filter(([name]) => !wanted.has(name)).map(([, row]) => row);
    if (this.#isHeld()) {
      // Nothing may move from under the pointer or the keyboard: a button would become another room's.
      gone.forEach((row) => this.#strike(row));
    } else {
      gone.forEach((row) => row.remove());
      [...wanted.keys()].forEach((name, index) => {
        const row = /** @type {HTMLTableRowElement} */ (rows.get(name));
        if (this.#body.rows[index] !== row) {
          this.#body.insertBefore(row, this.#body.rows[index] ?? null);
        }
      });
    }
    this.#table.hidden = this.#body.rows.length === 0;
  }

  /** Whether somebody is at one of the rows. */
  #isHeld() {
    const isAt = this.#body.matches(":hover") || this.#body.contains(document.activeElement);
    return isAt && this.#body.rows.length < MAX_HELD_ROWS;
  }

  /** @param {Entry} entry */
  #add(entry) {
    const copy = /** @type {DocumentFragment} */ (this.#template.content.cloneNode(true));
    const row = /** @type {HTMLTableRowElement} */ (copy.querySelector("tr"));
    const name = String(entry[0]);
    const link = row.cells[0].querySelector("a");
    if (link) {
      link.href += encodeURIComponent(name);
    }
    (link ?? row.cells[0]).textContent = name;
    entry.slice(1).forEach((text, index) => (row.cells[index + 1].textContent = String(text)));
    for (const field of row.querySelectorAll("input[name=room]")) {
      /** @type {HTMLInputElement} */ (field).value = name;
    }
    for (const button of row.querySelectorAll("[aria-label]")) {
      button.setAttribute("aria-label", button.getAttribute("aria-label") + name);
    }
    this.#body.append(row);
    return row;
  }

  /** What the row is of has gone. @param {HTMLTableRowElement} row */
  #strike(row) {
    for (const cell of row.querySelectorAll("[data-count]")) {
      cell.textContent = "0";
    }
    row.classList.add("rooms-gone");
  }

  /** @param {HTMLTableRowElement} row @param {Entry} entry */
  #update(row, entry) {
    row.classList.remove("rooms-gone");
    entry.slice(1).forEach((text, index) => {
      const cell = row.cells[index + 1];
      if (cell.textContent !== String(text)) {
        cell.textContent = String(text);
        cell.classList.remove("rooms-changed");
        requestAnimationFrame(() => cell.classList.add("rooms-changed"));
      }
    });
  }
}

/** The page, and whether what it shows is so now. */
class LivePage {
  /** @type {HTMLElement} */ #page;
  /** What could not be read the last time. @type {Set<string>} */ #unread = new Set();
  /** Those that this page has, by their names. @type {Map<string, Rows>} */ #tables;

  /** @param {HTMLElement} page */
  constructor(page) {
    this.#page = page;
    const tables = /** @type {NodeListOf<HTMLElement>} */ (page.querySelectorAll("[data-table]"));
    this.#tables = new Map(
      [...tables].map((table) => table.dataset.table ?? "").map((name) => [name, new Rows(page, name)]),
    );
  }

  start() {
    const socket = connect(/** @type {string} */ (this.#page.dataset.url));
    socket.on("rooms.live", (message) => this.#showRooms(message));
    socket.on("rooms.live.room", (message) => this.#showRoom(message));
    socket.on("rooms.live.user", (message) => this.#showUser(message));
    socket.onStatus(({ state }) => {
      if (state === "reconnecting") {
        this.#say("Reconnecting: this may be old.");
      } else if (state === "stopped") {
        this.#say("Not live:", true);
      }
      // Live only once there is something to show.
    });
  }

  /** @param {RoomsShown} message */
  #showRooms({ listing, has_more: hasMore }) {
    this.#note("rooms", listing !== null);
    if (listing === null) {
      return;
    }
    this.#total("connections", listing.connections, "connection", "connections");
    this.#total("processes", listing.processes.length, "process", "processes");
    this.#total("rooms", listing.total_rooms, "room", "rooms");
    this.#fill("rooms", listing.rooms.map(({ room, connections }) => [room, connections]));
    this.#fill(
      "processes",
      listing.processes.map(({ process, connections, rooms }) => [process, connections, rooms]),
    );
    this.#part("more").hidden = !hasMore;
  }

  /** @param {RoomShown} message */
  #showRoom({ connections, member_count: count, members }) {
    this.#note("room", connections !== null);
    if (connections === null) {
      return;
    }
    this.#total("connections", connections, "connection", "connections");
    this.#total("members", count, "member", "members");
    this.#fill("members", members.map(({ id, name }) => [id, name]));
    this.#part('part="members"').hidden = count === 0;
    this.#part('part="crowd"').hidden = members.length > 0;
  }

  /** @param {UserShown} message */
  #showUser({ connections }) {
    this.#note("user", connections !== null);
    if (connections === null) {
      return;
    }
    this.#fill(
      "connections",
      connections.map(({ id, since, process, path, rooms }) => [id, since, process, path, rooms]),
    );
  }

  /** @param {string} name of a table, which this page may be without @param {Entry[]} entries */
  #fill(name, entries) {
    this.#tables.get(name)?.show(entries);
    const empty = /** @type {HTMLElement | null} */ (this.#page.querySelector(`[data-empty="${name}"]`));
    if (empty !== null) {
      empty.hidden = entries.length > 0;
    }
  }

  /** Say whether all that the page shows is so now. @param {string} part @param {boolean} isRead */
  #note(part, isRead) {
    if (isRead) {
      this.#unread.delete(part);
    } else {
      this.#unread.add(part);
    }
    const live = this.#tables.has("processes") ? "Live. This page is one of the connections." : "Live.";
    this.#say(this.#unread.size > 0 ? "This can't be read now: what is here is old." : live);
  }

  /** @param {string} text @param {boolean} [isOver] whether only a reload helps */
  #say(text, isOver = false) {
    write(this.#part("state"), text);
    this.#part("reload").hidden = !isOver;
  }

  /** @param {string} name @param {number} number @param {string} one @param {string} many */
  #total(name, number, one, many) {
    const total = /** @type {HTMLElement} */ (this.#page.querySelector(`[data-total="${name}"]`));
    write(total, `${number} ${number === 1 ? one : many}`);
  }

  /** @param {string} name @returns {HTMLElement} */
  #part(name) {
    return /** @type {HTMLElement} */ (this.#page.querySelector(`[data-${name}]`));
  }
}

/** What stays the same is not read out again. @param {HTMLElement} element @param {string} text */
function write(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

const page = document.getElementById("rooms-live");
if (page !== null) {
  new LivePage(page).start();
}
