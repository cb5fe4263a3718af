/** The controls: what they hold, which of them the mode has, and what is wrong with them. */

import { find, make } from "./dom.js";
import { say, text } from "./language.js";
import { MODES, MODE_OF_SERVED, fieldsOf, missing, pictureField } from "./request.js";

const GUIDANCE = { redux: 2.5, img2img: 3.5, text2img: 3.5, controlnet: 3.5 };
/** The parameter that a control is, where its name is another. */
const PARAMS = {
    count: "n",
    steps: "num_inference_steps",
    guidance: "cfg",
    trueCfg: "true_cfg_scale",
    loraWeight: "lora_scale",
    width: "sides",
    height: "sides",
};

export class Form {
    #form = find("form");

    /** onRun: called where running is asked for. */
    constructor(onRun) {
        this.#form.addEventListener("submit", (event) => {
            event.preventDefault();
            onRun();
        });
        this.#form.addEventListener("input", () => this.#adapt());
        find("seed-random").addEventListener("click", () => this.seed = "");
        this.#adapt();
    }

    get mode() {
        return this.#form.elements.mode.value;
    }

    set seed(seed) {
        find("seed").value = seed;
    }

    /** Goes to a mode that takes pictures, unless it is there. */
    takePictures() {
        if (!pictureField(this.mode)) {
            this.#choose(MODES.filter(pictureField));
        }
    }

    /** served: as /health names the modes; others cannot be chosen. */
    offer(served) {
        const modes = served.map((name) => MODE_OF_SERVED[name]);
        for (const mode of MODES) {
            const radio = find(`mode-${mode}`);
            radio.disabled = !modes.includes(mode);
            radio.parentElement.title = radio.disabled ? text("mode.absent") : "";
        }
        if (find(`mode-${this.mode}`).disabled) {
            this.#choose(MODES);
        }
    }

    offerLoras(names) {
        find("lora-field").hidden = names.length === 0;
        const none = find("lora").options[0];
        find("lora").replaceChildren(none, ...names.map((name) => make("option", { value: name, textContent: name })));
    }

    fields() {
        return fieldsOf(Object.fromEntries(Array.from(this.#form.elements, (control) => [control.name, control])
            .filter(([name]) => name)
            .map(([name]) => [name, this.#form.elements[name].value])));
    }

    /** Returns what is wrong, as a complaint; null: nothing. */
    fault(hasPicture) {
        for (const control of this.#form.elements) {
            if (control.willValidate && !control.validity.valid) {
                return { param: PARAMS[control.name] ?? control.name, ...faultOf(control) };
            }
        }
        const param = missing(this.fields(), hasPicture);
        return param && { param, key: param === "prompt" ? "error.missing.prompt" : "error.missing.picture" };
    }

    #choose(modes) {
        const mode = modes.find((name) => !find(`mode-${name}`).disabled);
        if (mode) {
            find(`mode-${mode}`).checked = true;
            this.#adapt();
        }
    }

    /** Shows what the mode has, and disables what counts for nothing, which is then not looked at for faults. */
    #adapt() {
        const { mode } = this;
        say(find("mode-about"), `mode.${mode}.about`);
        say(find("prompt-need"), mode === "text2img" ? "prompt.required" : "prompt.optional");
        find("picture-field").hidden = !pictureField(mode);
        find("strength-field").hidden = mode !== "img2img";
        find("strength-shown").value = Number(find("strength").value).toFixed(2);
        find("guidance").placeholder = GUIDANCE[mode];
        find("sides").hidden = find("size").value !== "custom";
        find("width").disabled = find("height").disabled = find("sides").hidden;
        find("true-cfg").disabled = find("negative").value.trim() === "";
        find("lora-weight").disabled = find("lora").value === "";
    }
}

function faultOf({ validity, min, max, step }) {
    if (validity.valueMissing) {
        return { key: "error.empty" };
    }
    if (validity.rangeUnderflow || validity.rangeOverflow) {
        return { key: "error.range", values: { min, max } };
    }
    return step && validity.stepMismatch ? { key: "error.multiple", values: { step } } : { key: "error.number" };
}
