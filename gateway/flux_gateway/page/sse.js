/** Server-sent events out of text that comes in pieces, which may end anywhere. Pure. */
export class EventParser {
    #line = "";
    #event = "message";
    #data = [];

    /** Returns what this piece completes: [{event, data}]. */
    feed(piece) {
        const lines = piece.split("\n");
        lines[0] = this.#line + lines[0];
        this.#line = lines.pop();
        return lines.map((line) => this.#take(line.replace(/\r$/, ""))).filter(Boolean);
    }

    #take(line) {
        if (line === "") {
            return this.#complete();
        }
        const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (name === "data") {
            this.#data.push(value);
        } else if (name === "event") {
            this.#event = value;
        }
        return null;
    }

    #complete() {
        const whole = this.#data.length ? { event: this.#event, data: this.#data.join("\n") } : null;
        this.#event = "message";
        this.#data = [];
        return whole;
    }
}
