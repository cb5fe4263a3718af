/** Polls the server's health, and shows the status line of the page. */

import { find } from "./dom.js";
import { say } from "./language.js";

const EVERY_MS = 4000;
const HIDDEN_EVERY_MS = 30000;

/** Returns the server's reason as a text of the page, if the page has one. */
export function reasonOf(words) {
    const known = { loading: "server.loading", "not reachable": "server.unreachable", "no answer": "server.silent" };
    const part = Object.keys(known).find((part) => words.includes(part));
    return part ? { key: known[part] } : { key: "server.unhealthy" };
}

/** onChange: called with {healthy, modes, side, reason} whenever one of them changes. */
export function watch(api, onChange) {
    let last = "";
    let timer = 0;

    async function look() {
        clearTimeout(timer);
        const health = await api.health();
        const reason = health.healthy ? { key: "server.ready" } : reasonOf(health.reason);
        if (JSON.stringify(health) !== last) {
            last = JSON.stringify(health);
            show(health.healthy, reason);
            onChange({ ...health, reason });
        }
        clearTimeout(timer);
        timer = setTimeout(look, document.hidden ? HIDDEN_EVERY_MS : EVERY_MS);
    }

    document.addEventListener("visibilitychange", () => document.hidden || look());
    look();
}

function show(healthy, reason) {
    const line = find("server");
    line.dataset.state = healthy ? "ready" : "away";
    say(line.firstElementChild, reason.key, reason.values);
}

/** Shows a text in the status line. */
export function status(key, values) {
    say(find("status"), key, values);
}
