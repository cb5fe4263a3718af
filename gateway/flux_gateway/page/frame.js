/** One image of the gallery, from its first step to the result. */

import { compare } from "./compare.js";
import { find, make } from "./dom.js";
import { label, say } from "./language.js";
import { curl, fileName, python } from "./snippets.js";

const KIND = "image/png";

export class Frame {
    element = make("li", { className: "frame" });
    isDone = false;
    #number;
    #asked;
    #does;
    #urls = [];
    #shown = make("div", { className: "developing" });
    #progress = make("progress", { max: 1, value: 0 });
    #step = make("span", { className: "step" });

    /** number: from 1. asked: {fields, image, before, withKey}. does: {use, seed, copy, remove}, the actions of its buttons. */
    constructor(number, asked, does) {
        this.#number = number;
        this.#asked = asked;
        this.#does = does;
        label(this.#progress, "frame.progress", { number });
        say(this.#step, "frame.waiting");
        this.element.append(this.#shown, make("div", { className: "caption" }, this.#progress, this.#step));
    }

    /** image: of a job's event. */
    take(image) {
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

    /** Removes the image and frees its memory. */
    remove() {
        this.element.remove();
        this.#urls.forEach((url) => URL.revokeObjectURL(url));
    }

    #finish({ b64_json: text, seed, width, height }) {
        this.isDone = true;
        const { before, fields } = this.#asked;
        const file = new File([bytesOf(text)], fileName(fields.mode, seed), { type: KIND });
        const after = this.#urlOf(file);
        const image = before
            ? compare(this.#urlOf(before), after, seed)
            : label(make("img", { src: after }), "frame.result", { seed });
        this.element.style.setProperty("--ratio", `${width} / ${height}`);
        this.element.replaceChildren(image, this.#caption(seed, `${width} × ${height}`), this.#actions(file, after, seed));
    }

    #caption(seed, size) {
        const again = label(button("frame.seed", () => this.#does.seed(seed), { seed }), "frame.useSeed", { seed });
        return make("div", { className: "caption" }, again, make("span", { textContent: size }));
    }

    #actions(file, url, seed) {
        const { fields, image, withKey } = this.#asked;
        const one = { origin: location.origin, fields, image, seed, withKey };
        const download = say(make("a", { href: url, download: file.name, role: "button" }), "frame.download");
        return make(
            "div",
            { className: "actions" },
            download,
            button("frame.use", () => this.#does.use(file)),
            button("frame.curl", () => this.#does.copy(curl(one))),
            button("frame.python", () => this.#does.copy(python(one))),
            button("frame.remove", () => {
                this.#does.remove(this);
                find("results-title").focus();
            }),
        );
    }

    #urlOf(file) {
        this.#urls.push(URL.createObjectURL(file));
        return this.#urls.at(-1);
    }
}

function button(key, onClick, values = {}) {
    const made = say(make("button", { type: "button", className: "quiet" }), key, values);
    made.addEventListener("click", onClick);
    return made;
}

function bytesOf(base64) {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
