/** The image that goes in: chosen, dropped, pasted, or one of the results. */

import { find, make } from "./dom.js";
import { say } from "./language.js";

export class InputImage {
    /** null: none. */
    file = null;
    #url = null;
    #input = find("image");
    #shown = find("image-shown");
    #bar = find("image-bar");
    #onTaken;
    #onFault;

    /** onTaken: called when there is a new one. onFault: called where a file is no image. */
    constructor({ onTaken, onFault }) {
        this.#onTaken = onTaken;
        this.#onFault = onFault;
        this.#input.addEventListener("change", () => this.#take(this.#input.files));
        find("image-remove").addEventListener("click", () => {
            this.clear();
            this.#input.focus();
        });
        document.addEventListener("paste", (event) => this.#take(event.clipboardData.files, event));
        this.#listenToDrops();
    }

    async set(file) {
        const url = URL.createObjectURL(file);
        const image = make("img", { src: url });
        try {
            await image.decode();
        } catch {
            URL.revokeObjectURL(url);
            this.#onFault();
            return;
        }
        this.clear();
        this.file = file;
        this.#url = url;
        this.#shown.src = url;
        this.#shown.hidden = false;
        this.#bar.hidden = false;
        const values = { name: file.name, width: image.naturalWidth, height: image.naturalHeight };
        say(find("image-name"), "image.named", values);
        this.#onTaken();
    }

    clear() {
        URL.revokeObjectURL(this.#url);
        this.file = null;
        this.#shown.removeAttribute("src");
        this.#shown.hidden = true;
        this.#bar.hidden = true;
        // Else choosing the same file again would be no change.
        this.#input.value = "";
    }

    #take(files, event) {
        const file = files[0];
        if (file) {
            event?.preventDefault();
            this.set(file);
        }
    }

    /** The whole page takes drops: what falls beside the field would replace the page. */
    #listenToDrops() {
        const brings = (event) => event.dataTransfer.types.includes("Files");
        const mark = (over) => document.body.classList.toggle("dropping", over);
        document.addEventListener("dragover", (event) => {
            if (brings(event)) {
                event.preventDefault();
                mark(true);
            }
        });
        document.addEventListener("dragleave", (event) => event.relatedTarget ?? mark(false));
        document.addEventListener("drop", (event) => {
            mark(false);
            if (brings(event)) {
                event.preventDefault();
                this.#take(event.dataTransfer.files);
            }
        });
    }
}
