/** Text into the clipboard, also where the page did not come by https and has no clipboard of the new kind. */

import { make } from "./dom.js";

/** Returns whether it went. */
export async function copy(text) {
    if (navigator.clipboard) {
        return navigator.clipboard.writeText(text).then(() => true, () => false);
    }
    const area = make("textarea", { value: text, className: "unseen" });
    document.body.append(area);
    area.select();
    const went = document.execCommand("copy");
    area.remove();
    return went;
}
