/** A mask as a list of operations on a canvas: strokes, an uploaded image, inversion. Painted pixels are in the mask. */

import { make } from "./dom.js";

const COLOR = "#fff";

export class MaskDrawing {
    #canvas;
    #context;
    #operations = [];

    /** canvas: its size in pixels is the size of the mask. */
    constructor(canvas) {
        this.#canvas = canvas;
        this.#context = canvas.getContext("2d", { willReadFrequently: true });
    }

    get operations() {
        return [...this.#operations];
    }

    /** Whether there is no operation. */
    get isEmpty() {
        return this.#operations.length === 0;
    }

    /** Whether a pixel is painted: strokes may have been erased. */
    get isPainted() {
        const { data } = this.#context.getImageData(0, 0, this.#canvas.width, this.#canvas.height);
        return data.some((value, index) => index % 4 === 3 && value > 0);
    }

    load(operations, width, height) {
        Object.assign(this.#canvas, { width, height });
        this.#operations = [...operations];
        this.#draw();
    }

    /** size: diameter in pixels of the mask. */
    begin(point, size, isErasing) {
        this.#operations.push({ kind: "stroke", points: [point], size, isErasing });
        this.#stroke(this.#operations.at(-1));
    }

    extend(points) {
        const stroke = this.#operations.at(-1);
        const from = stroke.points.length - 1;
        stroke.points.push(...points);
        this.#stroke(stroke, from);
    }

    undo() {
        this.#operations.pop();
        this.#draw();
    }

    invert() {
        this.#operations.push({ kind: "invert" });
        this.#draw();
    }

    clear() {
        this.#operations = [];
        this.#draw();
    }

    /** image: an <img> of a mask, white where the image is used; replaces the drawing. */
    upload(image) {
        this.#operations = [{ kind: "upload", layer: layerOf(image, this.#canvas) }];
        this.#draw();
    }

    /** Returns the mask as a PNG file, white on black. */
    async file() {
        const { width, height } = this.#canvas;
        const whole = make("canvas", { width, height });
        const context = whole.getContext("2d");
        fill(context, "#000");
        context.drawImage(this.#canvas, 0, 0);
        return fileOf(whole);
    }

    #draw() {
        this.#context.globalCompositeOperation = "source-over";
        this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
        for (const operation of this.#operations) {
            if (operation.kind === "stroke") {
                this.#stroke(operation);
            } else if (operation.kind === "invert") {
                this.#context.globalCompositeOperation = "xor";
                fill(this.#context, COLOR);
            } else {
                this.#context.globalCompositeOperation = "source-over";
                this.#context.drawImage(operation.layer, 0, 0);
            }
        }
    }

    /** from: index of the first point to draw. */
    #stroke({ points, size, isErasing }, from = 0) {
        const context = this.#context;
        context.globalCompositeOperation = isErasing ? "destination-out" : "source-over";
        Object.assign(context, { fillStyle: COLOR, strokeStyle: COLOR, lineWidth: size, lineCap: "round", lineJoin: "round" });
        const { x: startX, y: startY } = points[from];
        // A line without a length would draw nothing.
        context.beginPath();
        context.arc(startX, startY, size / 2, 0, 2 * Math.PI);
        context.fill();
        context.beginPath();
        context.moveTo(startX, startY);
        points.slice(from + 1).forEach(({ x, y }) => context.lineTo(x, y));
        context.stroke();
    }
}

/** Returns a mask that includes the whole image, as a PNG file. */
export function wholeMask(width, height) {
    const canvas = make("canvas", { width, height });
    fill(canvas.getContext("2d"), COLOR);
    return fileOf(canvas);
}

function fill(context, style) {
    context.fillStyle = style;
    context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}

async function fileOf(canvas) {
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    return new File([blob], "mask.png", { type: "image/png" });
}

/** Returns a canvas of the same size as `canvas`, painted where the image is white. */
function layerOf(image, { width, height }) {
    const layer = make("canvas", { width, height });
    const context = layer.getContext("2d");
    context.drawImage(image, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height);
    const { data } = pixels;
    for (let at = 0; at < data.length; at += 4) {
        const luminance = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
        data[at + 3] = (luminance * data[at + 3]) / 255;
    }
    context.putImageData(pixels, 0, 0);
    context.globalCompositeOperation = "source-in";
    fill(context, COLOR);
    return layer;
}
