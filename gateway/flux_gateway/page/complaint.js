/** An error message, beside the field that it is about. */

import { find } from "./dom.js";
import { say } from "./language.js";
import { reasonOf } from "./status.js";

const RETRY_S = 5;

/** Of an ApiError: {key, values, param, retryAfter}. */
export function complaintOf(error) {
    const words = error.message;
    const seconds = error.retryAfter ?? RETRY_S;
    const about = { param: error.param, values: { words } };
    switch (error.status) {
        case 401:
            return { ...about, key: "error.key", param: "key" };
        case 404:
            return { ...about, key: "error.gone" };
        case 413:
            return { ...about, key: "error.large" };
        case 415:
            return { ...about, key: "error.kind" };
        case 429:
            return { ...about, key: "error.limit", values: { words, seconds }, retryAfter: seconds };
        case 503:
            return { ...about, ...busy(words, seconds), retryAfter: seconds };
        case 400:
        case 422:
            return { ...about, key: "error.refused" };
        default:
            return { ...about, key: error.status ? "error.failed" : "error.network" };
    }
}

function busy(words, seconds) {
    const reason = reasonOf(words);
    return reason.key === "server.unhealthy"
        ? { key: "error.full", values: { seconds } }
        : { key: "error.unready", values: { reason, seconds } };
}

export class Complaint {
    #box = find("error");
    #words = find("error-words");
    #retry = find("retry");
    #home = find("error-home");
    #control = null;
    #countdown = 0;

    constructor(onRetry) {
        this.#retry.addEventListener("click", onRetry);
    }

    /** retryAfter: seconds until a retry is useful; null: it is not. */
    show({ key, values = {}, param = null, retryAfter = null }) {
        this.clear();
        const fields = param ? [...document.querySelectorAll(`[data-param~="${CSS.escape(param)}"]`)] : [];
        // The last is the most specific: the sides of a custom size come after the list of sizes.
        const field = fields.findLast((each) => !each.closest("[hidden]"));
        if (field) {
            this.#point(field, param);
        }
        this.#box.hidden = false;
        say(this.#words, key, values);
        if (retryAfter) {
            this.#count(retryAfter);
        }
    }

    clear() {
        clearTimeout(this.#countdown);
        this.#box.hidden = true;
        this.#retry.hidden = true;
        this.#words.textContent = "";
        delete this.#words.dataset.text;
        this.#control?.removeAttribute("aria-invalid");
        this.#control?.removeAttribute("aria-errormessage");
        this.#control = null;
        this.#home.append(this.#box);
    }

    #point(field, param) {
        const details = field.closest("details");
        if (details) {
            details.open = true;
        }
        field.append(this.#box);
        this.#control = field.querySelector(`[name="${CSS.escape(param)}"]`) ?? field.querySelector("input, textarea, select");
        this.#control.setAttribute("aria-invalid", "true");
        this.#control.setAttribute("aria-errormessage", this.#words.id);
        this.#control.focus();
    }

    /** Counts down in the button: a screen reader would read an alert aloud each second. */
    #count(seconds) {
        this.#retry.hidden = false;
        this.#retry.disabled = seconds > 0;
        if (seconds > 0) {
            say(this.#retry, "retry.in", { seconds });
            this.#countdown = setTimeout(() => this.#count(seconds - 1), 1000);
        } else {
            say(this.#retry, "retry");
        }
    }
}
