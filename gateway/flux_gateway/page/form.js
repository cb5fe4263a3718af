/** The form: values of its controls, controls of the chosen mode, and the first invalid control. */

import { limit, makeModes, prepareControls, showDefault } from "./controls.js";
import { find, make } from "./dom.js";
import { placeholder, say, sayOr, text } from "./language.js";
import { fieldsOf, filesOf, isIdle, missing, modeOf } from "./request.js";

export class Form {
    #form = find("form");
    #contract;
    #parameters;
    #images = null;

    /** contract: from /page/contract.json. onRun: called when the form is submitted. */
    constructor(contract, onRun) {
        this.#contract = contract;
        this.#parameters = contract.parameters.filter((parameter) => !parameter.per_image);
        makeModes(contract, find("modes"), "mode-about");
        prepareControls(this.#parameters, this.#form, find("made"));
        limit(find("lora-weight"), contract.lora_weight);
        find("lora-weight").value = contract.lora_weight.default;
        this.#form.addEventListener("submit", (event) => {
            event.preventDefault();
            onRun();
        });
        this.#form.addEventListener("input", () => this.#adapt());
        find("seed-random").addEventListener("click", () => {
            this.seed = "";
            find("seed").focus();
        });
        this.#adapt();
    }

    /** The chosen mode, from the contract. */
    get mode() {
        return modeOf(this.#contract, this.#form.elements.mode.value);
    }

    get hasPrompt() {
        return find("prompt").value.trim() !== "";
    }

    get parametersPerImage() {
        return this.#contract.parameters.filter((parameter) => parameter.per_image);
    }

    set seed(seed) {
        find("seed").value = seed;
        this.#adapt();
    }

    /** images: {used, files, adapt}. */
    set images(images) {
        this.#images = images;
        this.#adapt();
    }

    /** Chooses a mode that accepts images, unless the chosen mode does. */
    chooseModeWithImages() {
        if (!this.mode.image) {
            this.#choose(this.#contract.modes.filter(({ image }) => image));
        }
    }

    /** served: names of modes, as in /health; other modes cannot be chosen. side: of the default size, or null. */
    offer(served, side) {
        for (const { name, genserve } of this.#contract.modes) {
            const radio = find(`mode-${genserve}`);
            radio.disabled = !served.includes(name);
            radio.parentElement.title = radio.disabled ? text("mode.absent") : "";
        }
        if (find(`mode-${this.mode.genserve}`).disabled) {
            this.#choose(this.#contract.modes);
        }
        if (side !== null) {
            say(find("size").options[0], "size.native", { side });
            for (const parameter of this.#parameters.filter(({ name }) => ["width", "height"].includes(name))) {
                Object.keys(parameter.default).forEach((mode) => parameter.default[mode] = side);
            }
            this.#adapt();
        }
    }

    /** Shows the number of steps that a request without one had. */
    showSteps(steps) {
        placeholder(find("steps"), null, String(steps));
        const parameter = this.#parameters.find(({ name }) => name === find("steps").name);
        Object.keys(parameter.default).forEach((mode) => parameter.default[mode] = steps);
    }

    offerLoras(names) {
        find("lora-field").hidden = names.length === 0;
        const none = find("lora").options[0];
        find("lora").replaceChildren(none, ...names.map((name) => make("option", { value: name, textContent: name })));
    }

    fields() {
        return fieldsOf(this.#contract, this.#values(), this.#images.used.map(({ values }) => values));
    }

    /** Returns [{field, file}]. */
    async files() {
        return this.mode.image ? filesOf(this.mode, await this.#images.files()) : [];
    }

    /** Returns the first invalid control as a complaint, or null. */
    fault() {
        for (const control of this.#form.elements) {
            if (control.willValidate && !control.validity.valid) {
                const param = control.closest("[data-param]").dataset.param.split(" ")[0];
                return { param: control.name || param, control, ...faultOf(control, this.#parameter(param)) };
            }
        }
        const param = missing(this.#contract, this.fields(), this.#images.used);
        const keys = { [this.mode.image]: "error.missing.image", [this.mode.mask]: "error.missing.mask" };
        return param && { param, key: keys[param] ?? "error.empty" };
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

    /** Shows the controls that the mode accepts. Controls without effect are disabled, so they are not validated. */
    #adapt() {
        const { mode } = this;
        sayOr(find("mode-about"), `mode.${mode.genserve}.about`, mode.purpose);
        say(find("prompt-need"), mode.required.includes("prompt") ? "prompt.required" : "prompt.optional");
        find("image-field").hidden = !mode.image;
        const values = this.#values();
        for (const parameter of this.#parameters) {
            const control = this.#form.elements[parameter.name];
            const isAccepted = mode.parameters.includes(parameter.name);
            control.closest(".field").hidden = !isAccepted;
            control.disabled = !isAccepted || isIdle(parameter, values);
            showDefault(control, parameter, mode.genserve, this.hasPrompt);
        }
        for (const shown of this.#form.querySelectorAll("output")) {
            shown.value = Number(find(shown.htmlFor.value).value).toFixed(2);
        }
        find("seed-random").hidden = find("seed").value === "";
        find("sides").hidden = find("size").value !== "custom";
        find("width").disabled = find("height").disabled = find("sides").hidden;
        find("lora-weight").disabled = find("lora").value === "";
        this.#images?.adapt();
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
