/** The images of this visit, newest first. */

import { find } from "./dom.js";
import { Frame } from "./frame.js";
import { say } from "./language.js";

const MOST = 60;
/** Milliseconds in which a second click confirms that all images are removed. */
const CONFIRM_MS = 5000;

export class Gallery {
    #list = find("gallery");
    #clear = find("clear");
    #frames = [];
    #actions;
    #confirming = 0;

    /** actions: {open, use, seed}: what the buttons of an image do. */
    constructor(actions) {
        this.#actions = { ...actions, remove: (frame) => this.#remove([frame]) };
        this.#clear.addEventListener("click", () => this.#clearAll());
    }

    /** Frames with a result, in the order of the page. */
    get finished() {
        return this.#frames.filter((frame) => frame.isDone);
    }

    /** Adds frames for the images of a request. */
    begin(count, request) {
        const frames = Array.from({ length: count }, (_, index) => new Frame(index + 1, request, this.#actions));
        this.#list.prepend(...frames.map((frame) => frame.element));
        this.#frames.unshift(...frames);
        this.#remove(this.#frames.slice(MOST));
        // On a phone they are below the form.
        frames[0].element.scrollIntoView({ block: "nearest" });
        return frames;
    }

    /** Removes the frames without a result. */
    end(frames) {
        this.#remove(frames.filter((frame) => !frame.isDone));
    }

    #clearAll() {
        if (this.#confirming) {
            this.#remove(this.finished);
            find("results-title").focus();
            return;
        }
        say(this.#clear, "results.confirm", { count: this.finished.length });
        this.#confirming = setTimeout(() => this.#stopConfirming(), CONFIRM_MS);
    }

    #stopConfirming() {
        clearTimeout(this.#confirming);
        this.#confirming = 0;
        say(this.#clear, "results.clear");
    }

    #remove(frames) {
        frames.forEach((frame) => frame.remove());
        this.#frames = this.#frames.filter((frame) => !frames.includes(frame));
        find("empty").hidden = this.#frames.length > 0;
        this.#clear.hidden = this.finished.length === 0;
        this.#stopConfirming();
    }
}
