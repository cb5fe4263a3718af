/** The input images: chosen, dropped, pasted, or results of earlier runs. */

import { find } from "./dom.js";
import { decoded, listenToFiles } from "./files.js";
import { describeFirst, ImageCard } from "./image_card.js";
import { say } from "./language.js";
import { MaskEditor } from "./mask_editor.js";

export class InputImages {
    #cards = [];
    #list = find("images");
    #input = find("image");
    #editor = new MaskEditor();
    #form;
    #does;

    /** does: {accepted, rejected}, called when images were added, and with the key of a text when one was not. */
    constructor(form, does) {
        this.#form = form;
        this.#does = does;
        form.images = this;
        describeFirst(form.parametersPerImage, find("images-about"));
        this.#input.addEventListener("change", async () => {
            const files = [...this.#input.files];
            // Without this, choosing the same file again would not be a change.
            this.#input.value = "";
            await this.add(files);
        });
        listenToFiles((files) => this.add(files));
    }

    /** The cards that a request of the chosen mode includes. */
    get used() {
        return this.#cards.slice(0, this.#form.mode.max_images);
    }

    /** Returns [{file, mask}] for a request; each has a mask if one of them has. */
    async files() {
        const cards = this.used;
        const hasMask = this.#form.mode.mask && cards.some(({ mask }) => mask);
        return Promise.all(
            cards.map(async (card) => ({ file: card.file, mask: hasMask ? await card.anyMask() : null })),
        );
    }

    /** Adds images; in a mode with one image, the last file replaces it. */
    async add(files) {
        this.#form.chooseModeWithImages();
        for (const file of files) {
            await this.#add(file);
        }
    }

    /** Shows what the chosen mode accepts. */
    adapt() {
        const { mode, hasPrompt } = this.#form;
        this.#cards.forEach((card, index) => card.adapt(mode, index < mode.max_images, hasPrompt));
        this.#input.multiple = mode.max_images > 1;
        this.#list.hidden = this.#cards.length === 0;
        const names = this.#form.parametersPerImage.map(({ name }) => name);
        find("images-about").hidden = this.#list.hidden || !names.some((name) => mode.parameters.includes(name));
        const isMore = this.#cards.length > 0;
        this.#list.parentElement.classList.toggle("filled", isMore);
        say(find("image-choose"), !isMore ? "image.choose" : mode.max_images > 1 ? "image.add" : "image.replace");
    }

    get #maskText() {
        return this.#form.mode.needs_mask ? "mask.about.change" : "mask.about";
    }

    async #add(file) {
        const { max_images: most } = this.#form.mode;
        if (most > 1 && this.#cards.length >= most) {
            this.#does.rejected({ key: "error.images", values: { most } });
            return;
        }
        const url = URL.createObjectURL(file);
        let image;
        try {
            image = await decoded(url);
        } catch {
            URL.revokeObjectURL(url);
            this.#does.rejected({ key: "error.image" });
            return;
        }
        const card = new ImageCard(file, url, image, this.#form.parametersPerImage, {
            remove: (each) => this.#remove(each),
            drawMask: (each) => this.#editor.open(each, this.#maskText, (mask) => each.setMask(mask)),
        });
        if (most === 1 && this.#cards.length) {
            const [first] = this.#cards;
            first.element.replaceWith(card.element);
            first.remove();
            this.#cards[0] = card;
        } else {
            this.#cards.push(card);
            this.#list.append(card.element);
        }
        this.adapt();
        this.#does.accepted();
    }

    #remove(card) {
        card.remove();
        this.#cards = this.#cards.filter((each) => each !== card);
        this.adapt();
        this.#input.focus();
    }
}
