/** The dialog in which a mask is drawn over an image, with mouse, pen or finger, or uploaded. */

import { find } from "./dom.js";
import { decoded } from "./files.js";
import { say } from "./language.js";
import { MaskDrawing } from "./mask_drawing.js";

/** Diameters of the brush, as shares of the shorter side of the image. */
const BRUSH = { min: 0.01, max: 0.5, step: 0.01, value: 0.12 };

export class MaskEditor {
    #dialog = find("mask-editor");
    #canvas = find("mask-canvas");
    #size = Object.assign(find("mask-size"), { type: "range", ...BRUSH });
    #drawing = new MaskDrawing(this.#canvas);
    #pointer = null;
    #onDone = null;

    constructor() {
        const actions = { undo: "undo", invert: "invert", clear: "clear" };
        for (const [name, method] of Object.entries(actions)) {
            find(`mask-${name}`).addEventListener("click", () => this.#change(() => this.#drawing[method]()));
        }
        find("mask-cancel").addEventListener("click", () => this.#dialog.close());
        find("mask-done").addEventListener("click", () => this.#finish());
        find("mask-file").addEventListener("change", (event) => this.#upload(event.target));
        this.#dialog.addEventListener("keydown", (event) => {
            if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
                event.preventDefault();
                this.#change(() => this.#drawing.undo());
            }
        });
        this.#listenToPointers();
    }

    /** url, width, height: of the image. about: key of the text that says what to paint. onDone: called with {operations, file}; file: null without a mask. */
    open({ url, width, height, operations }, about, onDone) {
        say(find("mask-about"), about);
        this.#onDone = onDone;
        find("mask-image").src = url;
        find("mask-erase").checked = false;
        this.#canvas.style.aspectRatio = `${width} / ${height}`;
        this.#canvas.parentElement.style.setProperty("--ratio", width / height);
        this.#change(() => this.#drawing.load(operations, width, height));
        this.#dialog.showModal();
    }

    async #finish() {
        const isPainted = this.#drawing.isPainted;
        const operations = isPainted ? this.#drawing.operations : [];
        this.#onDone({ operations, file: isPainted ? await this.#drawing.file() : null });
        this.#dialog.close();
    }

    #change(change) {
        find("mask-error").textContent = "";
        change();
        this.#canvas.classList.toggle("blank", this.#drawing.isEmpty);
        find("mask-undo").disabled = find("mask-clear").disabled = this.#drawing.isEmpty;
    }

    async #upload(input) {
        const [file] = input.files;
        // Without this, choosing the same file again would not be a change.
        input.value = "";
        if (!file) {
            return;
        }
        const url = URL.createObjectURL(file);
        try {
            const image = await decoded(url);
            this.#change(() => this.#drawing.upload(image));
        } catch {
            say(find("mask-error"), "error.image");
        } finally {
            URL.revokeObjectURL(url);
        }
    }

    #listenToPointers() {
        const canvas = this.#canvas;
        canvas.addEventListener("pointerdown", (event) => {
            if (event.button !== 0 || this.#pointer !== null) {
                return;
            }
            event.preventDefault();
            this.#pointer = event.pointerId;
            canvas.setPointerCapture(event.pointerId);
            const size = this.#size.value * Math.min(canvas.width, canvas.height);
            this.#change(() => this.#drawing.begin(this.#pointOf(event), size, find("mask-erase").checked));
        });
        canvas.addEventListener("pointermove", (event) => {
            if (event.pointerId === this.#pointer) {
                const events = event.getCoalescedEvents?.() ?? [];
                this.#drawing.extend((events.length ? events : [event]).map((each) => this.#pointOf(each)));
            }
        });
        for (const name of ["pointerup", "pointercancel"]) {
            canvas.addEventListener(name, (event) => {
                if (event.pointerId === this.#pointer) {
                    this.#pointer = null;
                }
            });
        }
    }

    #pointOf({ clientX, clientY }) {
        const { left, top, width, height } = this.#canvas.getBoundingClientRect();
        return {
            x: ((clientX - left) / width) * this.#canvas.width,
            y: ((clientY - top) / height) * this.#canvas.height,
        };
    }
}
