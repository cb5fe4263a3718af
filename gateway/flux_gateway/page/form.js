/** The form: values of its controls, controls of the chosen mode, and the first invalid control. */

import { limit, makeModes, prepareControls, showDefault } from "./controls.js";
import { find, make } from "./dom.js";
import { say, sayOr, text } from "./language.js";
import { fieldsOf, isIdle, missing, modeOf, imageField } from "./request.js";

export class Form {
    #form = find("form");
    #contract;

    /** contract: of /page/contract.json. onRun: called when the form is submitted. */
    constructor(contract, onRun) {
        this.#contract = contract;
        makeModes(contract, find("modes"), "mode-about");
        prepareControls(contract, this.#form, find("made"));
        limit(find("lora-weight"), contract.lora_weight);
        find("lora-weight").value = contract.lora_weight.default;
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

    /** The field of the chosen mode's image; null: the mode takes none. */
    get imageField() {
        return imageField(this.#contract, this.mode);
    }

    /** Chooses a mode that takes an image, unless the chosen mode does. */
    takeImages() {
        if (!this.imageField) {
            this.#choose(this.#contract.modes.filter(({ image }) => image));
        }
    }

    /** served: names of modes, as in /health; other modes cannot be chosen. */
    offer(served) {
        for (const { name, genserve } of this.#contract.modes) {
            const radio = find(`mode-${genserve}`);
            radio.disabled = !served.includes(name);
            radio.parentElement.title = radio.disabled ? text("mode.absent") : "";
        }
        if (find(`mode-${this.mode}`).disabled) {
            this.#choose(this.#contract.modes);
        }
    }

    offerLoras(names) {
        find("lora-field").hidden = names.length === 0;
        const none = find("lora").options[0];
        find("lora").replaceChildren(none, ...names.map((name) => make("option", { value: name, textContent: name })));
    }

    fields() {
        return fieldsOf(this.#contract, this.#values());
    }

    /** Returns what is invalid, as a complaint; null: nothing. */
    fault(hasImage) {
        for (const control of this.#form.elements) {
            if (control.willValidate && !control.validity.valid) {
                return { param: control.name, ...faultOf(control, this.#parameter(control.name)) };
            }
        }
        const param = missing(this.#contract, this.fields(), hasImage);
        return param && { param, key: param === this.imageField ? "error.missing.image" : "error.empty" };
    }

    #parameter(name) {
        return this.#contract.parameters.find((parameter) => parameter.name === name);
    }

    /** Texts of the controls, by name. */
    #values() {
        const names = Array.from(this.#form.elements, (control) => control.name).filter((name) => name);
        return Object.fromEntries(names.map((name) => [name, this.#form.elements[name].value]));
    }

    #choose(modes) {
        const mode = modes.find(({ genserve }) => !find(`mode-${genserve}`).disabled);
        if (mode) {
            find(`mode-${mode.genserve}`).checked = true;
            this.#adapt();
        }
    }

    /** Shows the controls that the mode takes. Controls without effect are disabled, so they are not validated. */
    #adapt() {
        const mode = modeOf(this.#contract, this.mode);
        sayOr(find("mode-about"), `mode.${mode.genserve}.about`, mode.purpose);
        say(find("prompt-need"), mode.required.includes("prompt") ? "prompt.required" : "prompt.optional");
        find("image-field").hidden = !mode.image;
        const values = this.#values();
        for (const parameter of this.#contract.parameters) {
            const control = this.#form.elements[parameter.name];
            const isTaken = mode.parameters.includes(parameter.name);
            control.closest(".field").hidden = !isTaken;
            control.disabled = !isTaken || isIdle(parameter, values);
            showDefault(control, parameter, mode.genserve);
        }
        find("strength-shown").value = Number(find("strength").value).toFixed(2);
        find("sides").hidden = find("size").value !== "custom";
        find("width").disabled = find("height").disabled = find("sides").hidden;
        find("lora-weight").disabled = find("lora").value === "";
    }
}

function faultOf({ validity, min, max }, parameter) {
    if (validity.valueMissing) {
        return { key: "error.empty" };
    }
    if (validity.rangeUnderflow || validity.rangeOverflow) {
        return { key: "error.range", values: { min, max } };
    }
    if (validity.stepMismatch && parameter?.multiple) {
        return { key: "error.multiple", values: { step: parameter.multiple } };
    }
    return { key: validity.stepMismatch ? "error.integer" : "error.number" };
}
