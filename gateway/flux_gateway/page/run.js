/** One job, from its start to its end. */

const ATTEMPTS = 5;
const PAUSE_MS = 1000;

export class Run {
    #api;
    #id = null;
    #stop = new AbortController();

    constructor(api) {
        this.#api = api;
    }

    /** onImage: called with each state of each image. Returns {status, error}. Throws ApiError. */
    async go(fields, files, onImage) {
        const { id } = await this.#api.start(fields, files);
        this.#id = id;
        try {
            return await this.#follow(onImage);
        } catch (error) {
            if (this.#stop.signal.aborted) {
                return { status: "cancelled", error: null };
            }
            throw error;
        } finally {
            this.leave();
        }
    }

    cancel() {
        this.#stop.abort();
    }

    /** Cancels the job if it runs, and removes it from the server. */
    leave() {
        if (this.#id) {
            this.#api.forget(this.#id).catch(() => {});
            this.#id = null;
        }
    }

    /** Reconnects after a broken connection: the job continues without it. */
    async #follow(onImage) {
        let failures = 0;
        for (;;) {
            try {
                for await (const { event, data } of this.#api.events(this.#id, this.#stop.signal)) {
                    failures = 0;
                    if (event === "image") {
                        onImage(JSON.parse(data));
                    } else if (event === "done") {
                        return JSON.parse(data);
                    }
                }
            } catch (error) {
                failures += 1;
                if (this.#stop.signal.aborted || error.status || failures === ATTEMPTS) {
                    throw error;
                }
            }
            await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
        }
    }
}
