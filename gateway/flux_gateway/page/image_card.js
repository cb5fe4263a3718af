/** One input image: its thumbnail, its mask and its own values of the parameters per image. */

import { makeField, showDefault } from "./controls.js";
import { make } from "./dom.js";
import { knows, label, say } from "./language.js";
import { wholeMask } from "./mask_drawing.js";

/** Parameters that are always shown; the others are behind "more". */
const FIRST = 2;
/** Id of their hint, which all images share. */
const HINT = "images-about";
let count = 0;

/** Writes the hint for the parameters that are always shown. */
export function describeFirst(parameters, place) {
    const hints = parameters.slice(0, FIRST).filter(({ name }) => knows(`${name}.about`));
    const texts = hints.map(({ name }) => say(make("span"), "named", { name: { key: name }, words: { key: `${name}.about` } }));
    place.replaceChildren(...texts);
}

export class ImageCard {
    element = make("li", { className: "card" });
    file;
    width;
    height;
    url;
    /** null: the whole image is used. */
    mask = null;
    #operations = [];
    #maskUrl = null;
    #thumbnail = make("div", { className: "thumbnail" });
    #maskButton;
    #details;
    #unused;
    /** By parameter. */
    #controls = new Map();

    /** image: decoded. does: {remove, drawMask}, called with this card. */
    constructor(file, url, image, parameters, does) {
        Object.assign(this, { file, url, width: image.naturalWidth, height: image.naturalHeight });
        count += 1;
        const name = say(make("span", { className: "name" }), "image.named", {
            name: file.name,
            width: this.width,
            height: this.height,
        });
        name.title = name.textContent;
        const remove = label(make("button", { type: "button", className: "quiet remove", textContent: "✕" }), "image.remove");
        remove.addEventListener("click", () => does.remove(this));
        this.#thumbnail.append(image);
        image.alt = "";
        this.#maskButton = say(make("button", { type: "button", className: "quiet mask" }), "mask.draw");
        this.#maskButton.addEventListener("click", () => does.drawMask(this));
        this.#unused = say(make("p", { className: "hint", hidden: true }), "image.unused");
        const fields = parameters.map((parameter, index) => this.#fieldOf(parameter, index < FIRST));
        const first = make("div", { className: "pair" }, ...fields.slice(0, FIRST));
        const summary = say(make("summary"), "image.more");
        this.#details = make("details", {}, summary, make("div", { className: "pair" }, ...fields.slice(FIRST)));
        this.element.append(
            this.#thumbnail,
            make("div", { className: "card-top" }, name, remove),
            make("div", { className: "card-values" }, this.#unused, first, this.#maskButton),
            this.#details,
        );
    }

    /** Texts of the controls, by parameter. */
    get values() {
        return Object.fromEntries([...this.#controls].map(([{ name }, control]) => [name, control.value]));
    }

    get operations() {
        return this.#operations;
    }

    /** The mask; if there is none, a mask that includes the whole image. */
    async anyMask() {
        return this.mask ?? wholeMask(this.width, this.height);
    }

    /** file: null removes the mask. */
    setMask({ operations, file }) {
        this.#operations = operations;
        this.mask = file;
        URL.revokeObjectURL(this.#maskUrl);
        this.#maskUrl = file && URL.createObjectURL(file);
        this.#thumbnail.querySelector(".mask")?.remove();
        if (file) {
            this.#thumbnail.append(label(make("img", { src: this.#maskUrl, className: "mask" }), "mask"));
        }
        say(this.#maskButton, file ? "mask.edit" : "mask.draw");
    }

    /** Shows what a mode accepts. isUsed: whether a request of the mode includes this image. */
    adapt(mode, isUsed, hasPrompt) {
        this.element.classList.toggle("unused", !isUsed);
        this.#unused.hidden = isUsed;
        for (const [parameter, control] of this.#controls) {
            const isAccepted = isUsed && mode.parameters.includes(parameter.name);
            control.closest(".field").hidden = !isAccepted;
            control.disabled = !isAccepted;
            showDefault(control, parameter, mode.genserve, hasPrompt);
        }
        this.#maskButton.hidden = !(isUsed && mode.mask);
        this.#details.hidden = !this.#details.querySelector(".field:not([hidden])");
    }

    remove() {
        this.element.remove();
        URL.revokeObjectURL(this.url);
        URL.revokeObjectURL(this.#maskUrl);
    }

    #fieldOf(parameter, isFirst) {
        const hint = isFirst ? HINT : null;
        const { field, control } = makeField(parameter, `image-${count}-${parameter.name}`, hint);
        this.#controls.set(parameter, control);
        return field;
    }
}
