/** Image files from a choice, a drop or the clipboard. */

import { make } from "./dom.js";

/** Returns the decoded <img> of a URL. Rejects: the browser cannot read it as an image. */
export async function decoded(url) {
    const image = make("img", { src: url });
    await image.decode();
    return image;
}

/** Calls onFiles with files that are pasted or dropped anywhere; a drop outside the field would replace the page. */
export function listenToFiles(onFiles) {
    const isDialogOpen = () => document.querySelector("dialog[open]") !== null;
    const take = (files, event) => {
        if (files.length && !isDialogOpen()) {
            event.preventDefault();
            onFiles([...files]);
        }
    };
    const hasFiles = (event) => event.dataTransfer.types.includes("Files");
    const mark = (isOver) => document.body.classList.toggle("dropping", isOver);
    document.addEventListener("paste", (event) => take(event.clipboardData.files, event));
    document.addEventListener("dragover", (event) => {
        if (hasFiles(event)) {
            event.preventDefault();
            mark(!isDialogOpen());
        }
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget ?? mark(false));
    document.addEventListener("drop", (event) => {
        mark(false);
        if (hasFiles(event)) {
            event.preventDefault();
            take(event.dataTransfer.files, event);
        }
    });
}
