/**
 * The texts of the page in both languages. Pure.
 *
 * Keys of a parameter without a place in index.html: its name for the label, its name and `.about` for a hint, its name
 * and `.default` for a default that depends on other fields or on the checkpoint, and its name and a choice for the
 * choice. Keys of a mode: `mode.` and GenServe's name, and the same with `.about`. Without a text, the name is shown.
 */

import { ENGLISH } from "./texts_en.js";
import { CHINESE } from "./texts_zh.js";

export const TEXTS = { en: ENGLISH, zh: CHINESE };

export function textOf(language, key, values = {}) {
    return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
