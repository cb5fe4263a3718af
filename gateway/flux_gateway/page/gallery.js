/** The images of this visit, newest first. */

import { find } from "./dom.js";
import { Frame } from "./frame.js";

const MOST = 60;

export class Gallery {
    #list = find("gallery");
    #frames = [];
    #does;

    /** does: {use, seed, copy}: what the buttons of an image do. */
    constructor(does) {
        this.#does = { ...does, remove: (frame) => this.#remove([frame]) };
    }

    /** Frames for so many images that are to come. */
    begin(count, asked) {
        const frames = Array.from({ length: count }, (_, index) => new Frame(index + 1, asked, this.#does));
        this.#list.prepend(...frames.map((frame) => frame.element));
        this.#frames.unshift(...frames);
        this.#remove(this.#frames.slice(MOST));
        // On a phone they come below the form.
        frames[0].element.scrollIntoView({ block: "nearest" });
        return frames;
    }

    /** Those that got no image go. */
    end(frames) {
        this.#remove(frames.filter((frame) => !frame.isDone));
    }

    #remove(frames) {
        frames.forEach((frame) => frame.remove());
        this.#frames = this.#frames.filter((frame) => !frames.includes(frame));
        find("empty").hidden = this.#frames.length > 0;
    }
}
