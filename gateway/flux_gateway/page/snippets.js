/** Commands that generate one of the images again. Pure. */

import { asText } from "./request.js";

const IMAGE = "input.png";
const KEY = "FLUX_API_KEY";

export function fileName(mode, seed, extension = "png") {
    return `flux-${mode}-${seed}.${extension}`;
}

/** fields: of the request; image: field of its image, or null; seed: of the result; withKey: the server requires one. */
export function curl({ origin, fields, image, seed, withKey }) {
    const one = fieldsOfOne(fields, seed);
    const lines = [`curl -sS ${shell(origin + pathFor(image))}`];
    if (withKey) {
        lines.push(`-H "Authorization: Bearer $${KEY}"`);
    }
    if (image) {
        // --form-string and not -F, to which "@", "<" and ";" in a prompt mean something.
        lines.push(...Object.entries(one).map(([name, value]) => `--form-string ${shell(`${name}=${asText(value)}`)}`));
        lines.push(`-F ${image}=@${IMAGE}`);
    } else {
        lines.push("-H 'Content-Type: application/json'", `-d ${shell(JSON.stringify(one))}`);
    }
    lines.push(`| jq -r .image_base64 | base64 --decode > ${fileName(one.mode, seed)}`);
    return `${lines.join(" \\\n    ")}\n`;
}

export function python({ origin, fields, image, seed, withKey }) {
    const one = fieldsOfOne(fields, seed);
    const given = [literal(origin + pathFor(image))];
    if (withKey) {
        given.push(`headers={"Authorization": f"Bearer {os.environ['${KEY}']}"}`);
    }
    if (image) {
        const texts = Object.fromEntries(Object.entries(one).map(([name, value]) => [name, asText(value)]));
        given.push(`data=${literal(texts)}`, `files={"${image}": open("${IMAGE}", "rb")}`);
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

function pathFor(image) {
    return image ? "/generate/upload" : "/generate";
}

function shell(text) {
    return `'${text.replaceAll("'", "'\\''")}'`;
}

/** JSON of texts, numbers, lists and objects is valid Python. */
function literal(value) {
    return JSON.stringify(value);
}
