/** Controls of the contract's parameters: bounds and defaults; a control that the page has no place for is made. */

import { make } from "./dom.js";
import { knows, placeholder, say, sayOr } from "./language.js";

/** Steps of a slider. */
const SLIDER_STEPS = 20;

/** Gives each parameter's control its bounds. place: where a control is made that the form does not have. */
export function prepareControls(contract, form, place) {
    for (const parameter of contract.parameters) {
        limit(form.elements[parameter.name] ?? makeControl(parameter, form, place), parameter);
    }
}

/** Makes a button for each mode. about: id of the text that describes the chosen mode. */
export function makeModes(contract, place, about) {
    const buttons = contract.modes.map(({ genserve }, index) => {
        const radio = make("input", { type: "radio", name: "mode", id: `mode-${genserve}`, value: genserve });
        radio.checked = index === 0;
        radio.setAttribute("aria-describedby", about);
        return make("label", {}, radio, sayOr(make("span"), `mode.${genserve}`, genserve));
    });
    place.replaceChildren(...buttons);
}

/** Shows the default in a mode: as the value, if the control is never empty and was not changed, or as placeholder. */
export function showDefault(control, parameter, mode) {
    const value = parameter.value ?? parameter.default[mode] ?? null;
    if (control.required || control.type === "range") {
        const isUnchanged = [undefined, control.value].includes(control.dataset.shown);
        if (isUnchanged && value !== null) {
            control.value = value;
            control.dataset.shown = control.value;
        }
    } else if (control.type === "number" && parameter.empty === null) {
        const key = knows(`${parameter.name}.default`) ? `${parameter.name}.default` : "default";
        placeholder(control, value === null ? key : null, String(value));
    }
}

export function limit(control, { min, max, step = null, max_length: maxLength = null }) {
    if (control.type === "number") {
        Object.assign(control, { min: min ?? "", max: max ?? "", step: step ?? "any" });
    } else if (control.type === "range") {
        Object.assign(control, { min, max, step: step ?? (max - min) / SLIDER_STEPS });
    } else if (maxLength !== null) {
        control.maxLength = maxLength;
    }
}

function makeControl(parameter, form, place) {
    const { name, requires } = parameter;
    const control = Object.assign(emptyControl(parameter), { id: `field-${name}`, name, required: requires !== null });
    const label = sayOr(make("label", { htmlFor: control.id }), name, name.replaceAll("_", " "));
    const field = make("div", { className: control.type === "textarea" ? "field wide" : "field" }, label, control);
    field.dataset.param = name;
    if (knows(`${name}.about`)) {
        const about = say(make("p", { className: "hint", id: `${control.id}-about` }), `${name}.about`);
        control.setAttribute("aria-describedby", about.id);
        field.append(about);
    }
    const required = form.elements[requires]?.closest(".field");
    place.contains(required ?? null) ? required.after(field) : place.append(field);
    return control;
}

function emptyControl({ type, choices }) {
    if (type === "text") {
        return make("textarea", { rows: 2 });
    }
    if (type === "choice") {
        const first = say(make("option", { value: "" }), "default");
        return make("select", {}, first, ...choices.map((choice) => make("option", { value: choice, textContent: choice })));
    }
    return make("input", { type: "number" });
}
