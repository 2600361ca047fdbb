/** What the page has to say, it says by POST. */

const TIMEOUT_MS = 15_000;

/**
 * What a server answered, or the problem in words: the server's own, or those for one that is late or not there.
 * @typedef {{answer: any, problem: string}} Answer
 */

/**
 * Post JSON.
 *
 * @param {string} path beside the page's own, wherever the project is mounted
 * @param {object | undefined} body
 * @param {{late: string, unreachable: string}} words
 * @returns {Promise<Answer>}
 */
export async function post(path, body, { late, unreachable }) {
  const token = /** @type {HTMLInputElement} */ (document.querySelector("[name=csrfmiddlewaretoken]")).value;
  try {
    const response = await fetch(pageUrl(path), {
      method: "POST",
      headers: { ...(body && { "Content-Type": "application/json" }), "X-CSRFToken": token },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const answer = await response.json().catch(() => ({}));
    return { answer, problem: response.ok ? "" : reasonOf(response, answer.detail) };
  } catch (error) {
    const isLate = error instanceof DOMException && error.name === "TimeoutError";
    return { answer: {}, problem: isLate ? late : unreachable };
  }
}

/** A URL beside this page's own, wherever the project is mounted. @param {string} path */
export function pageUrl(path) {
  return new URL(path, document.baseURI);
}

/** @param {Response} response @param {unknown} detail */
function reasonOf(response, detail) {
  if (Array.isArray(detail)) {
    return detail.map(({ loc, msg }) => `${loc?.at(-1) ?? "message"}: ${msg}`).join("; ");
  }
  return typeof detail === "string" ? detail : `The server answered ${response.status}.`;
}
