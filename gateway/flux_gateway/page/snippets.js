/** Returns commands that generate one of the images again. Pure. */

import { asTexts } from "./request.js";

const KEY = "FLUX_API_KEY";
const MASK_FIELD = /mask/;

export function fileName(mode, seed, extension = "png") {
    return `flux-${mode}-${seed}.${extension}`;
}

/** fields: of the request; files: fields of its files; seed: of the result; withKey: the server requires a key. */
export function curl({ origin, fields, files, seed, withKey }) {
    const one = fieldsOfOne(fields, seed);
    const lines = [`curl -sS ${shell(origin + pathFor(files))}`];
    if (withKey) {
        lines.push(`-H "Authorization: Bearer $${KEY}"`);
    }
    if (files.length) {
        // --form-string rather than -F, which gives "@", "<" and ";" in a prompt a meaning.
        lines.push(...formOf(one).map(([name, value]) => `--form-string ${shell(`${name}=${value}`)}`));
        lines.push(...named(files).map(({ field, name }) => `-F ${field}=@${name}`));
    } else {
        lines.push("-H 'Content-Type: application/json'", `-d ${shell(JSON.stringify(one))}`);
    }
    lines.push(`| jq -r .image_base64 | base64 --decode > ${fileName(one.mode, seed)}`);
    return `${lines.join(" \\\n    ")}\n`;
}

export function python({ origin, fields, files, seed, withKey }) {
    const one = fieldsOfOne(fields, seed);
    const given = [literal(origin + pathFor(files))];
    if (withKey) {
        given.push(`headers={"Authorization": f"Bearer {os.environ['${KEY}']}"}`);
    }
    if (files.length) {
        const opened = named(files).map(({ field, name }) => `("${field}", open("${name}", "rb"))`);
        given.push(`data=${literal(Object.fromEntries(Object.entries(one).map(([name, value]) => [name, asTexts(value)])))}`);
        given.push(`files=[${opened.join(", ")}]`);
    } else {
        given.push(`json=${literal(one)}`);
    }
    return [
        "import base64",
        ...(withKey ? ["import os"] : []),
        "",
        "import requests",
        "",
        "answer = requests.post(",
        ...given.map((argument) => `    ${argument},`),
        "    timeout=600,",
        ").json()",
        'if not answer["success"]:',
        '    raise SystemExit(answer["error"])',
        `with open("${fileName(one.mode, seed)}", "wb") as file:`,
        '    file.write(base64.b64decode(answer["image_base64"]))',
        "",
    ].join("\n");
}

function fieldsOfOne(fields, seed) {
    const { n, ...one } = fields;
    return { ...one, seed };
}

function formOf(fields) {
    return Object.entries(fields).flatMap(([name, value]) => asTexts(value).map((text) => [name, text]));
}

/** Returns [{field, name}]: input.png, or input-1.png and so on if there are several; the same with mask. */
function named(files) {
    return files.map((field, index) => {
        const stem = MASK_FIELD.test(field) ? "mask" : "input";
        const number = files.slice(0, index + 1).filter((each) => each === field).length;
        const isOnly = files.filter((each) => each === field).length === 1;
        return { field, name: isOnly ? `${stem}.png` : `${stem}-${number}.png` };
    });
}

function pathFor(files) {
    return files.length ? "/generate/upload" : "/generate";
}

function shell(text) {
    return `'${text.replaceAll("'", "'\\''")}'`;
}

/** JSON of texts, numbers, lists and objects is valid Python. */
function literal(value) {
    return JSON.stringify(value);
}
