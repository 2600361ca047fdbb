/** The visitor's report: ordered by POST, made by a worker, and shown as it grows. */

import { post } from "./post.js";

/** @typedef {{report_id: string, done: number, total: number}} Progress */
/** @typedef {{report_id: string, total: number, worker: number, finished_at: string}} Finished */
/** @typedef {{"report.progress": Progress, "report.finished": Finished}} ReportMessages */
/** @typedef {import("../rooms_app/rooms.js").Rooms<any>} Rooms */

// A step takes a quarter of a second.
const SILENT_MS = 6_000;

const MAKING = "Your report is being made, one at a time.";
const SILENT = "The worker doesn’t answer. Your report will be made as soon as it does.";
const WORDS = {
  late: "The server did not answer: perhaps your report is being made, perhaps not.",
  unreachable: "The server can’t be reached: try again in a moment.",
};

/** The button, and what has become of it. Messages come by the visitor's own room, to all her tabs. */
export class ReportPanel {
  /** @type {HTMLElement} */ #panel;
  /** @type {HTMLButtonElement} */ #button;
  /** @type {HTMLElement} */ #progress;
  /** @type {HTMLProgressElement} */ #bar;
  /** @type {HTMLElement} */ #step;
  /** @type {HTMLElement} */ #status;
  #isOrdering = false;
  /** The report that is being made, or "". */ #making = "";
  /** The last one that is done, or "". */ #done = "";
  #isLive = false;
  /** @type {number | undefined} */ #timer;

  /** @param {HTMLElement} panel */
  constructor(panel) {
    const part = (/** @type {string} */ selector) => /** @type {any} */ (panel.querySelector(selector));
    this.#panel = panel;
    this.#button = part("button");
    this.#progress = part(".progress");
    this.#bar = part("progress");
    this.#step = part(".step");
    this.#status = part("[role=status]");
    this.#button.addEventListener("click", () => this.#order());
  }

  /** Show what a connection brings; the one before is closed by whoever made it. @param {Rooms} connection */
  follow(connection) {
    connection.on("report.progress", (/** @type {Progress} */ message) => this.#grew(message));
    connection.on("report.finished", (/** @type {Finished} */ message) => this.#finished(message));
    connection.onStatus(({ state }) => {
      this.#isLive = state === "live";
      this.#watch();
    });
  }

  async #order() {
    // The button stays enabled for the focus' sake, and a second click must not do anything.
    if (this.#isOrdering || this.#button.getAttribute("aria-disabled") === "true") {
      return;
    }
    this.#isOrdering = true;
    this.#show("making", MAKING);
    this.#waitForWorker();
    const { answer, problem } = await post("report", undefined, WORDS);
    this.#isOrdering = false;
    if (problem) {
      this.#progress.hidden = true;
      this.#show("failed", problem);
    } else if (answer.report_id !== this.#done) {
      this.#making = answer.report_id;
      this.#watch();
    }
  }

  /** @param {Progress} message */
  #grew({ report_id, done, total }) {
    if (report_id === this.#done) {
      return; // a worker that was killed had told so already, and another one has taken its work up
    }
    this.#making = report_id;
    this.#progress.hidden = false;
    this.#bar.max = total;
    this.#bar.value = done;
    this.#step.textContent = `Step ${done} of ${total}`;
    this.#show("making", MAKING);
    this.#watch();
  }

  /** Also called with the last report of all when the page connects. @param {Finished} message */
  #finished({ report_id, total, worker, finished_at }) {
    const isOurs = report_id === this.#making;
    if (this.#making && !isOurs) {
      return;
    }
    this.#making = "";
    this.#done = report_id;
    this.#progress.hidden = !isOurs;
    this.#bar.max = this.#bar.value = total;
    this.#step.textContent = `Step ${total} of ${total}`;
    const time = new Date(finished_at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    this.#show("idle", isOurs ? `Your report is done, by worker process ${worker}.` : `Your last report: ${time}.`);
    this.#watch();
  }

  #waitForWorker() {
    this.#progress.hidden = false;
    this.#bar.removeAttribute("value"); // a bar that says nothing of how far it is
    this.#step.textContent = "Waiting for the worker";
  }

  /** A worker that is gone says nothing; whether it is, can't be told while we are not connected. */
  #watch() {
    clearTimeout(this.#timer);
    if (this.#making && this.#isLive) {
      this.#timer = setTimeout(() => this.#show("silent", SILENT), SILENT_MS);
    }
  }

  /** @param {"idle" | "making" | "silent" | "failed"} state @param {string} text */
  #show(state, text) {
    this.#panel.dataset.state = state;
    // Not `disabled`, which would take the focus away from who pressed it.
    this.#button.setAttribute("aria-disabled", String(state === "making"));
    // A screen reader says it each time it is set.
    if (this.#status.textContent !== text) {
      this.#status.textContent = text;
    }
  }
}
