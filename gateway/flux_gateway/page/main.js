/** The page: connects its parts. */

import { Api } from "./api.js";
import { copy } from "./clipboard.js";
import { Complaint, complaintOf, failureOf } from "./complaint.js";
import { find } from "./dom.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { InputImages } from "./input_images.js";
import { say, switchBy } from "./language.js";
import { Run } from "./run.js";
import { status, watch } from "./status.js";
import { Viewer } from "./viewer.js";

const api = new Api();
switchBy(find("language"));
const form = new Form(await readContract(), run);
const complaint = new Complaint(run);
const images = new InputImages(form, {
    accepted: () => complaint.clear(),
    rejected: (error) => complaint.show({ ...error, param: "input_image" }),
});
const gallery = new Gallery({
    open: (frame) => viewer.open(frame),
    use,
    seed: (seed) => form.seed = seed,
});
const viewer = new Viewer(gallery, { use, copy });
let server = { healthy: false, reason: { key: "server.asking" } };
let current = null;

async function use(file) {
    await images.add([file]);
    find("image").focus();
}

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
    const fault = form.fault();
    if (fault) {
        complaint.show(fault);
        status("status.invalid");
        return;
    }
    current = new Run(api);
    showRun();
    const fields = form.fields();
    const files = await form.files();
    const before = files[0]?.file ?? null;
    const request = { fields, files: files.map(({ field }) => field), before, withKey: api.key !== "" };
    const frames = gallery.begin(fields.n, request);
    status("status.sending");
    await follow(fields, files, frames);
    gallery.end(frames);
    current = null;
    showRun();
}

async function follow(fields, files, frames) {
    const started = performance.now();
    const count = fields.n;
    try {
        const end = await current.go(fields, files, (image) => {
            frames[image.index].update(image);
            status("status.running", { done: frames.filter((frame) => frame.isDone).length, count });
            if (image.steps && !("num_inference_steps" in fields) && !("strength" in fields)) {
                form.showSteps(image.steps);
            }
        });
        if (end.error) {
            complaint.show(failureOf(end.error));
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

function showRun() {
    find("run").disabled = current !== null || !server.healthy;
    find("cancel").hidden = current === null;
}

function listenToKeys() {
    document.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) {
            event.preventDefault();
            run();
        } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
            cancel();
        }
    });
}

/** Tells the style sheet the height of the bar, so that a field that gets the focus is scrolled above it. */
function observeBar() {
    const bar = document.querySelector(".runbar");
    const root = document.documentElement;
    new ResizeObserver(() => root.style.setProperty("--bar", `${bar.offsetHeight + 16}px`)).observe(bar);
}

function keepKey() {
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

keepKey();
observeBar();
listenToKeys();
find("cancel").addEventListener("click", cancel);
window.addEventListener("pagehide", () => current?.leave());
watch(api, (now) => {
    server = now;
    form.offer(now.healthy ? now.modes : [], now.side);
    showRun();
    if (!current) {
        now.healthy ? status("status.ready") : status("status.wait", { reason: now.reason });
    }
});
offerLoras();
