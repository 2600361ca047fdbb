/**
 * Lists in forms made from Pydantic classes: a button that adds a row, beside the spare ones that the server gives.
 *
 * Without the script the spare rows are all there is: save, and there are more.
 */

const ROW = ":scope > .form-row, :scope > fieldset";
const CONTROL = "input, select, textarea";
/** The attributes that hold names of inputs, or ids made of them. */
const NAMES = ["name", "id", "for", "aria-describedby", "data-list"];

/** A list of a form, as its fieldset shows it. */
class List {
  /** @type {HTMLElement} */ #list;
  /** @type {HTMLButtonElement} */ #button;

  /** @param {HTMLElement} list a fieldset with `data-list`, the name that those of its rows begin with */
  constructor(list) {
    this.#list = list;
    this.#button = document.createElement("button");
    this.#button.type = "button";
    this.#button.className = "button rooms-add";
    this.#button.textContent = "Add another";
    this.#button.setAttribute("aria-label", `Add another: ${list.querySelector("legend")?.textContent}`);
    this.#button.addEventListener("click", () => this.#add());
    list.append(this.#button);
    this.#offer();
  }

  #add() {
    const last = /** @type {HTMLElement} */ (this.#rows().at(-1));
    const row = /** @type {HTMLElement} */ (last.cloneNode(true));
    const name = `${this.#list.dataset.list}-`;
    const number = this.#number(last);
    for (const element of [row, ...row.querySelectorAll("*")]) {
      for (const attribute of NAMES) {
        const value = element.getAttribute(attribute);
        if (value !== null) {
          element.setAttribute(attribute, renamed(value, name + number, name + (number + 1)));
        }
      }
    }
    this.#blank(row);
    last.after(row);
    const label = row.querySelector("legend, label");
    if (label !== null) {
      label.textContent = label.textContent.replace(/\d+(?=:?$)/, String(this.#rows().length));
    }
    row.querySelectorAll(".rooms-add").forEach((button) => button.remove());
    lists(row).forEach((list) => new List(list));
    this.#offer();
    /** @type {HTMLElement | null} */ (row.querySelector(`:is(${CONTROL}):not([name$="--keep"])`))?.focus();
  }

  /** As the server shows a new row; after errors, without what was typed. @param {HTMLElement} row */
  #blank(row) {
    for (const control of row.querySelectorAll(CONTROL)) {
      control.removeAttribute("aria-invalid");
      if (control instanceof HTMLSelectElement) {
        const options = [...control.options];
        options.forEach((option) => (option.selected = option.defaultSelected));
      } else if (control instanceof HTMLInputElement && control.type === "checkbox") {
        control.checked = control.defaultChecked && !control.name.endsWith("--keep");
      } else {
        const text = /** @type {HTMLInputElement | HTMLTextAreaElement} */ (control);
        text.value = "isBound" in this.#list.dataset ? "" : text.defaultValue;
      }
    }
    row.querySelectorAll(".errorlist").forEach((errors) => errors.remove());
    [row, ...row.querySelectorAll(".errors")].forEach((element) => element.classList.remove("errors"));
  }

  /** There is none to copy where a list may hold nothing, and none to add where it is full. */
  #offer() {
    const count = this.#rows().length;
    this.#button.hidden = count === 0 || count >= Number(this.#list.dataset.maxRows || Infinity);
  }

  /** @returns {HTMLElement[]} */
  #rows() {
    return [...this.#list.querySelectorAll(ROW)].map((row) => /** @type {HTMLElement} */ (row));
  }

  /** The number in the names of a row. @param {HTMLElement} row */
  #number(row) {
    const control = /** @type {HTMLInputElement} */ (row.querySelector(CONTROL));
    return parseInt(control.name.slice(`${this.#list.dataset.list}-`.length), 10);
  }
}

/**
 * A value, or several with spaces between, in which one name is now another; what only begins alike stays.
 * @param {string} value @param {string} before @param {string} after
 */
function renamed(value, before, after) {
  const word = (/** @type {string} */ text) => {
    const start = text.startsWith(`id_${before}`) ? 3 : 0;
    const rest = text.slice(start + before.length);
    return text.startsWith(before, start) && /^([-_]|$)/.test(rest) ? text.slice(0, start) + after + rest : text;
  };
  return value.split(" ").map(word).join(" ");
}

/** @param {ParentNode} root @returns {HTMLElement[]} */
function lists(root) {
  return [...root.querySelectorAll("[data-list]")].map((list) => /** @type {HTMLElement} */ (list));
}

lists(document).forEach((list) => new List(list));
