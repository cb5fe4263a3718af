/** Texts in the chosen language. An element stores the key of its text, so that it can be translated again. */

import { TEXTS, textOf } from "./texts.js";

const CHOICE = "flux-language";
const TAGS = { en: "en", zh: "zh-Hans" };

let language = localStorage.getItem(CHOICE);
if (!(language in TEXTS)) {
    language = navigator.language.startsWith("zh") ? "zh" : "en";
}

/** values: to insert; a value {key, values} is a text itself. */
export function text(key, values = {}) {
    const inserted = Object.entries(values).map(([name, value]) => [
        name,
        typeof value === "object" ? text(value.key, value.values) : value,
    ]);
    return textOf(language, key, Object.fromEntries(inserted));
}

/** Whether there is a text with this key. */
export function knows(key) {
    return key in TEXTS[language];
}

/** As `say`; without a text with this key, the element says `other`, in every language. */
export function sayOr(element, key, other) {
    if (knows(key)) {
        return say(element, key);
    }
    delete element.dataset.text;
    element.textContent = other;
    return element;
}

/** Sets the placeholder to a text; key: null for `other`, in every language. values: to insert in the text. */
export function placeholder(element, key, other, values = {}) {
    if (key) {
        element.dataset.placeholder = key;
        element.dataset.values = JSON.stringify(values);
    } else {
        delete element.dataset.placeholder;
    }
    element.placeholder = key ? text(key, values) : other;
}

/** Sets the element's text. values: to insert. Returns the element. */
export function say(element, key, values = {}) {
    element.dataset.text = key;
    element.dataset.values = JSON.stringify(values);
    element.textContent = text(key, values);
    return element;
}

/** As `say`, for the attribute aria-label, or alt of an image. */
export function label(element, key, values = {}) {
    element.dataset.label = key;
    element.dataset.values = JSON.stringify(values);
    element.setAttribute(element.tagName === "IMG" ? "alt" : "aria-label", text(key, values));
    return element;
}

export function translate() {
    document.documentElement.lang = TAGS[language];
    for (const element of document.querySelectorAll("[data-text], [data-label], [data-placeholder]")) {
        const values = JSON.parse(element.dataset.values ?? "{}");
        const { text: said, label: labelled, placeholder } = element.dataset;
        if (said) {
            say(element, said, values);
        }
        if (labelled) {
            label(element, labelled, values);
        }
        if (placeholder) {
            element.placeholder = text(placeholder, values);
        }
    }
}

/** Lets a button switch to the other language. */
export function switchBy(button) {
    const name = () => {
        button.lang = TAGS[language === "en" ? "zh" : "en"];
        button.textContent = text("language.other");
    };
    button.addEventListener("click", () => {
        language = language === "en" ? "zh" : "en";
        localStorage.setItem(CHOICE, language);
        translate();
        name();
    });
    translate();
    name();
}
