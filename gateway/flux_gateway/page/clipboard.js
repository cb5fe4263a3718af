/** Copies text to the clipboard, also on a page without https, where browsers have no clipboard API. */

import { make } from "./dom.js";

/** Returns whether the text was copied. */
export async function copy(text) {
    if (navigator.clipboard) {
        return navigator.clipboard.writeText(text).then(() => true, () => false);
    }
    const area = make("textarea", { value: text, className: "unseen" });
    // Elements outside an open dialog cannot be selected.
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
}
