/** The page: connects its parts. */

import { Api } from "./api.js";
import { copy } from "./clipboard.js";
import { Complaint, complaintOf } from "./complaint.js";
import { find } from "./dom.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { say, switchBy } from "./language.js";
import { InputImage } from "./input_image.js";
import { Run } from "./run.js";
import { status, watch } from "./status.js";

const api = new Api();
switchBy(find("language"));
const form = new Form(await readContract(), run);
const complaint = new Complaint(run);
const image = new InputImage({
    onTaken: () => {
        form.takeImages();
        complaint.clear();
    },
    onFault: () => complaint.show({ key: "error.image", param: "input_image" }),
});
const gallery = new Gallery({
    use: (file) => {
        image.set(file);
        find("image").focus();
    },
    seed: (seed) => form.seed = seed,
    copy: async (text) => (await copy(text)) ? status("status.copied") : complaint.show({ key: "error.copy" }),
});
let server = { healthy: false, reason: { key: "server.asking" } };
let current = null;

async function readContract() {
    try {
        return await api.contract();
    } catch (error) {
        say(find("server").firstElementChild, "server.silent");
        throw error;
    }
}

async function run() {
    if (current || !server.healthy) {
        return;
    }
    complaint.clear();
    const fault = form.fault(image.file !== null);
    if (fault) {
        complaint.show(fault);
        return;
    }
    const fields = form.fields();
    const field = form.imageField;
    const given = field && { field, file: image.file };
    const frames = gallery.begin(fields.n, { fields, image: field, before: given?.file ?? null, withKey: api.key !== "" });
    current = new Run(api);
    showWhatGoes();
    status("status.sending");
    await follow(fields, given, frames);
    gallery.end(frames);
    current = null;
    showWhatGoes();
}

async function follow(fields, given, frames) {
    const started = performance.now();
    const count = fields.n;
    try {
        const end = await current.go(fields, given, (image) => {
            frames[image.index].take(image);
            status("status.running", { done: frames.filter((frame) => frame.isDone).length, count });
        });
        if (end.error) {
            complaint.show({ key: "error.failed", values: { words: end.error.message }, param: end.error.param });
        }
        const seconds = ((performance.now() - started) / 1000).toFixed(1);
        status({ succeeded: "status.done", cancelled: "status.cancelled" }[end.status] ?? "status.failed", { count, seconds });
    } catch (error) {
        askForKey(error);
        complaint.show(complaintOf(error));
        status("status.failed");
    }
}

function cancel() {
    if (current) {
        status("status.cancelling");
        current.cancel();
    }
}

function showWhatGoes() {
    find("run").disabled = current !== null || !server.healthy;
    find("cancel").hidden = current === null;
}

function listenToKeys() {
    document.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            run();
        } else if (event.key === "Escape") {
            cancel();
        }
    });
}

function keepTheKey() {
    const field = find("key");
    field.value = api.key;
    find("key-field").hidden = api.key === "";
    field.addEventListener("input", () => api.key = field.value.trim());
    field.addEventListener("change", offerLoras);
}

/** Shows the field of the API key if the server requires a key. */
function askForKey(error) {
    find("key-field").hidden &&= error.status !== 401;
}

async function offerLoras() {
    try {
        form.offerLoras(await api.loras());
    } catch (error) {
        askForKey(error);
    }
}

keepTheKey();
listenToKeys();
find("cancel").addEventListener("click", cancel);
window.addEventListener("pagehide", () => current?.leave());
watch(api, (now) => {
    server = now;
    form.offer(now.healthy ? now.modes : []);
    showWhatGoes();
    if (!current) {
        now.healthy ? status("status.ready") : status("status.wait", { reason: now.reason });
    }
});
offerLoras();
