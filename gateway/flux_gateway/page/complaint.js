/** An error message beside the field that it is about, repeated beside the button that starts a run. */

import { find } from "./dom.js";
import { say } from "./language.js";
import { knownMessage } from "./server_words.js";
import { reasonOf } from "./status.js";

const RETRY_S = 5;

/** Returns the complaint of an ApiError: {key, values, param, retryAfter, detail}. detail: the server's own words. */
export function complaintOf(error) {
    const seconds = error.retryAfter ?? RETRY_S;
    const about = { param: error.param, values: { seconds }, detail: error.message };
    switch (error.status) {
        case 0:
            return { ...about, key: "error.network", detail: "" };
        case 401:
            return { ...about, key: "error.key", param: "key", detail: "" };
        case 404:
            return { ...about, key: "error.gone", detail: "" };
        case 413:
            return { ...about, key: "error.large" };
        case 415:
            return { ...about, key: "error.kind" };
        case 429:
            return { ...about, key: "error.limit", retryAfter: seconds };
        case 503:
            return { ...about, ...busy(error.message, seconds), retryAfter: seconds };
        case 400:
        case 422:
            return { ...about, key: "error.refused", ...translated(error.message) };
        default:
            return failureOf(error);
    }
}

/** Returns the complaint of a job that failed. error: {message, param}. */
export function failureOf({ message, param }) {
    return { key: "error.failed", values: {}, param, detail: message, ...translated(message) };
}

function translated(words) {
    const known = knownMessage(words);
    return known && { ...known, detail: "" };
}

function busy(words, seconds) {
    const reason = reasonOf(words);
    return reason.key === "server.unhealthy"
        ? { key: "error.full", values: { seconds }, detail: "" }
        : { key: "error.unready", values: { reason, seconds }, detail: "" };
}

export class Complaint {
    #box = find("error");
    #words = find("error-words");
    #detail = find("error-detail");
    #again = find("error-again");
    #retry = find("retry");
    #home = find("error-home");
    #control = null;
    #countdown = 0;

    constructor(onRetry) {
        this.#retry.addEventListener("click", onRetry);
        this.#again.addEventListener("click", () => this.#goTo());
        find("form").addEventListener("input", ({ target }) => target === this.#control && this.clear());
    }

    /**
     * param: the field, with an index after a dot for one of several images. control: the control, where it is known.
     * retryAfter: seconds until a retry is useful; null: it is not. detail: shown as it is.
     */
    show({ key, values = {}, param = null, control = null, retryAfter = null, detail = "" }) {
        this.clear();
        const field = control?.closest("[data-param]") ?? fieldOf(param);
        if (field) {
            this.#point(field, control, param);
            this.#repeat(field, key, values);
        }
        this.#box.hidden = false;
        say(this.#words, key, values);
        this.#detail.hidden = detail === "";
        this.#detail.textContent = detail;
        if (retryAfter) {
            this.#count(retryAfter);
        }
        if (field) {
            this.#goTo();
        }
    }

    clear() {
        clearTimeout(this.#countdown);
        this.#box.hidden = true;
        this.#again.hidden = true;
        this.#retry.hidden = true;
        for (const element of [this.#words, this.#again]) {
            element.textContent = "";
            delete element.dataset.text;
        }
        this.#control?.removeAttribute("aria-invalid");
        this.#control?.removeAttribute("aria-errormessage");
        this.#control = null;
        this.#home.append(this.#box);
    }

    #point(field, control, param) {
        // In a grid of two columns, the message is as wide as both.
        field.matches(".pair > *") ? field.after(this.#box) : field.append(this.#box);
        const named = param && field.querySelector(`[name="${CSS.escape(param)}"]`);
        this.#control = control ?? named ?? field.querySelector("input, textarea, select");
        this.#control.setAttribute("aria-invalid", "true");
        this.#control.setAttribute("aria-errormessage", this.#words.id);
    }

    /** Says the error beside the button, too: its field may be out of sight. */
    #repeat(field, key, values) {
        const label = field.querySelector("label[data-text], label [data-text], legend[data-text]");
        const name = label ? { key: label.dataset.text } : (field.querySelector("label")?.textContent ?? "");
        say(this.#again, "named", { name, words: { key, values } });
        this.#again.hidden = false;
    }

    #goTo() {
        for (let details = this.#control.closest("details"); details; details = details.parentElement.closest("details")) {
            details.open = true;
        }
        this.#control.focus({ preventScroll: true });
        this.#box.scrollIntoView({ block: "center" });
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

/** Returns the element of a field that is shown, or null. */
function fieldOf(param) {
    const [name, index = 0] = (param ?? "").split(".");
    const fields = name ? [...document.querySelectorAll(`[data-param~="${CSS.escape(name)}"]`)] : [];
    const shown = fields.filter((each) => !each.closest("[hidden]"));
    // A name occurs several times if each image has it; or in the field of a size and, more specific, in those of its sides.
    return (shown[0]?.closest(".card") ? shown[index] : shown.at(-1)) ?? null;
}
