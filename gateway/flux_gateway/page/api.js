/** Requests to the gateway, the API key, and server-sent events. */

import { asTexts } from "./request.js";
import { EventParser } from "./sse.js";

const KEY = "flux-api-key";

/** status: 0 if there was no answer. */
export class ApiError extends Error {
    constructor(status, message, param = null, retryAfter = null) {
        super(message);
        this.status = status;
        this.param = param;
        this.retryAfter = retryAfter;
    }
}

export class Api {
    get key() {
        return sessionStorage.getItem(KEY) ?? "";
    }

    set key(key) {
        sessionStorage.setItem(KEY, key);
    }

    /** Returns {healthy, modes, side, reason}. side: of the model's default size in pixels; null: unknown. */
    async health() {
        try {
            const response = await fetch("/health", { cache: "no-store" });
            const body = await response.json();
            return { healthy: response.ok, modes: body.modes ?? [], side: body.native_side ?? null, reason: body.error ?? "" };
        } catch {
            return { healthy: false, modes: [], side: null, reason: "no answer" };
        }
    }

    /** The page's part of the contract. */
    contract() {
        return this.#json("/page/contract.json");
    }

    async loras() {
        const { loras } = await this.#json("/loras");
        return loras.map((lora) => lora.name);
    }

    /** files: [{field, file}]. Returns the job. */
    start(fields, files) {
        const body = new FormData();
        for (const [name, value] of Object.entries(fields)) {
            asTexts(value).forEach((text) => body.append(name, text));
        }
        files.forEach(({ field, file }) => body.append(field, file, file.name ?? "mask.png"));
        return this.#json("/v1/jobs", { method: "POST", body });
    }

    /** Cancels and removes the job, also while the page closes. */
    async forget(id) {
        await this.#fetch(`/v1/jobs/${id}`, { method: "DELETE", keepalive: true });
    }

    /** Yields {event, data} as they arrive. */
    async *events(id, signal) {
        const response = await this.#fetch(`/v1/jobs/${id}/events`, { signal });
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        const parser = new EventParser();
        for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
            yield* parser.feed(value);
        }
    }

    async #json(path, options) {
        const response = await this.#fetch(path, options);
        return response.json();
    }

    async #fetch(path, options = {}) {
        const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
        let response;
        try {
            response = await fetch(path, { ...options, headers });
        } catch (error) {
            throw new ApiError(0, error.message);
        }
        if (!response.ok) {
            throw await refusal(response);
        }
        return response;
    }
}

async function refusal(response) {
    // A proxy may answer with a body of another form.
    const body = await response.json().catch(() => ({}));
    const error = typeof body.error === "object" ? body.error : { message: body.error };
    const message = error?.message ?? response.statusText;
    const retryAfter = Number(response.headers.get("Retry-After")) || null;
    return new ApiError(response.status, message, error?.param ?? null, retryAfter);
}
