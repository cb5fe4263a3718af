/** One image of the gallery, from its first step to the result. */

import { find, make } from "./dom.js";
import { label, say } from "./language.js";
import { fileName } from "./snippets.js";

const KIND = "image/png";

export class Frame {
    element = make("li", { className: "frame" });
    /** Of a finished image: {file, url, seed, width, height}; null before. */
    result = null;
    #request;
    #number;
    #actions;
    #urls = [];
    #shown = make("div", { className: "developing" });
    #progress = make("progress", { max: 1, value: 0 });
    #step = make("span", { className: "step" });
    #open = null;
    #beforeUrl = null;

    /** number: from 1. request: {fields, files, before, withKey}. actions: {open, use, seed, copy, remove}. */
    constructor(number, request, actions) {
        this.#number = number;
        this.#request = request;
        this.#actions = actions;
        label(this.#progress, "frame.progress", { number });
        say(this.#step, "frame.waiting");
        this.element.append(this.#shown, make("div", { className: "caption" }, this.#progress, this.#step));
    }

    get isDone() {
        return this.result !== null;
    }

    get request() {
        return this.#request;
    }

    /** URL of the first input image, or null. */
    get beforeUrl() {
        const { before } = this.#request;
        this.#beforeUrl ??= before && this.#urlOf(before);
        return this.#beforeUrl;
    }

    /** image: of a job's event. */
    update(image) {
        if (image.b64_json) {
            this.#finish(image);
            return;
        }
        if (image.steps) {
            this.#progress.max = image.steps;
            this.#progress.value = image.step;
            say(this.#step, "frame.step", { step: image.step, steps: image.steps });
        }
        if (image.preview_b64_json) {
            const preview = this.#shown.firstElementChild ?? this.#shown.appendChild(make("img"));
            preview.src = `data:image/jpeg;base64,${image.preview_b64_json}`;
            label(preview, "frame.preview", { number: this.#number });
        }
    }

    focus() {
        this.#open?.focus();
    }

    /** Removes the image and frees its memory. */
    remove() {
        this.element.remove();
        this.#urls.forEach((url) => URL.revokeObjectURL(url));
    }

    #finish({ b64_json: text, seed, width, height }) {
        const file = new File([bytesOf(text)], fileName(this.#request.fields.mode, seed), { type: KIND });
        const url = this.#urlOf(file);
        this.result = { file, url, seed, width, height };
        const image = label(make("img", { src: url, width, height }), "frame.result", { seed });
        this.#open = label(make("button", { type: "button", className: "open" }, image), "frame.open", { seed });
        this.#open.addEventListener("click", () => this.#actions.open(this));
        const again = label(button("frame.seed", () => this.#actions.seed(seed), { seed }), "frame.useSeed", { seed });
        const caption = make("div", { className: "caption" }, again, make("span", { textContent: `${width} × ${height}` }));
        const remove = label(make("button", { type: "button", className: "quiet", textContent: "✕" }), "frame.remove");
        remove.addEventListener("click", () => {
            this.#actions.remove(this);
            find("results-title").focus();
        });
        const use = button("frame.use", () => this.#actions.use(file));
        this.element.replaceChildren(
            this.#open,
            caption,
            make("div", { className: "actions" }, download(this.result), use, remove),
        );
    }

    #urlOf(file) {
        this.#urls.push(URL.createObjectURL(file));
        return this.#urls.at(-1);
    }
}

export function button(key, onClick, values = {}) {
    const made = say(make("button", { type: "button", className: "quiet" }), key, values);
    made.addEventListener("click", onClick);
    return made;
}

/** Returns the link that downloads a result. */
export function download({ url, file }) {
    return say(make("a", { href: url, download: file.name, role: "button" }), "frame.download");
}

function bytesOf(base64) {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
