/** The large view of the results, in a dialog; the arrow keys go from one to the next. */

import { compare } from "./compare.js";
import { find, make } from "./dom.js";
import { button, download } from "./frame.js";
import { label, say } from "./language.js";
import { curl, python } from "./snippets.js";

export class Viewer {
    #dialog = find("viewer");
    #image = find("viewer-image");
    #gallery;
    #actions;
    #frame = null;

    /** gallery: {finished}. actions: {use, copy}. */
    constructor(gallery, actions) {
        this.#gallery = gallery;
        this.#actions = actions;
        find("viewer-close").addEventListener("click", () => this.#dialog.close());
        find("viewer-previous").addEventListener("click", () => this.#go(-1));
        find("viewer-next").addEventListener("click", () => this.#go(1));
        this.#dialog.addEventListener("close", () => {
            this.#image.replaceChildren();
            this.#frame.focus();
        });
        this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
        this.#dialog.addEventListener("keydown", (event) => {
            const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
            // The arrow keys of a slider move the slider.
            if (by && event.target.type !== "range") {
                event.preventDefault();
                this.#go(by);
            }
        });
    }

    open(frame) {
        this.#show(frame);
        this.#dialog.showModal();
        find("viewer-close").focus();
    }

    /** by: -1 or 1. */
    #go(by) {
        const frames = this.#gallery.finished;
        const next = frames[frames.indexOf(this.#frame) + by];
        if (next) {
            this.#show(next);
        }
    }

    #show(frame) {
        this.#frame = frame;
        const { url, seed, width, height } = frame.result;
        const frames = this.#gallery.finished;
        const index = frames.indexOf(frame);
        const image = label(make("img", { src: url, className: "large" }), "frame.result", { seed });
        this.#image.style.setProperty("--ratio", `${width / height}`);
        this.#image.replaceChildren(image);
        const values = { seed, width, height, number: index + 1, count: frames.length };
        say(find("viewer-caption"), "viewer.caption", values);
        find("viewer-previous").disabled = index <= 0;
        find("viewer-next").disabled = index === frames.length - 1;
        find("viewer-actions").replaceChildren(...this.#buttons(frame));
    }

    #buttons(frame) {
        const { fields, files, withKey } = frame.request;
        const { file, seed } = frame.result;
        const one = { origin: location.origin, fields, files, seed, withKey };
        const use = button("frame.use", () => {
            this.#dialog.close();
            this.#actions.use(file);
        });
        return [
            ...(frame.beforeUrl ? [this.#compareButton(frame)] : []),
            download(frame.result),
            use,
            this.#copyButton("frame.curl", curl(one)),
            this.#copyButton("frame.python", python(one)),
        ];
    }

    #compareButton({ beforeUrl, result }) {
        const toggle = button("frame.compareOn", () => {
            const isOn = toggle.getAttribute("aria-pressed") !== "true";
            toggle.setAttribute("aria-pressed", String(isOn));
            const plain = () => label(make("img", { src: result.url, className: "large" }), "frame.result", { seed: result.seed });
            this.#image.replaceChildren(isOn ? compare(beforeUrl, result.url, result.seed) : plain());
            this.#image.querySelector("input")?.focus();
        });
        toggle.setAttribute("aria-pressed", "false");
        return toggle;
    }

    #copyButton(key, text) {
        const copier = button(key, async () => {
            say(copier, (await this.#actions.copy(text)) ? "status.copied" : "error.copy");
            setTimeout(() => say(copier, key), 2000);
        });
        return copier;
    }
}
