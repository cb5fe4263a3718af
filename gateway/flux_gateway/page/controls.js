/** Controls of the contract's parameters: bounds and defaults. A parameter without a control in the form gets one. */

import { make } from "./dom.js";
import { knows, placeholder, say, sayOr } from "./language.js";

/** Steps of a slider. */
const SLIDER_STEPS = 20;

/** Sets the bounds of each parameter's control. place: where to add the controls that the form lacks. */
export function prepareControls(parameters, form, place) {
    for (const parameter of parameters) {
        const control = form.elements[parameter.name];
        control ? limit(control, parameter) : addField(parameter, form, place);
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

/** Shows the default in a mode: as the value of a control that is never empty and was not changed, or as placeholder. */
export function showDefault(control, parameter, mode, hasPrompt) {
    const withPrompt = hasPrompt ? parameter.default_with_prompt?.[mode] : null;
    const value = parameter.value ?? withPrompt ?? parameter.default[mode] ?? null;
    if (control.required || control.type === "range") {
        const isUnchanged = [undefined, control.value].includes(control.dataset.shown);
        if (isUnchanged && value !== null) {
            control.value = value;
            control.dataset.shown = control.value;
        }
    } else if (control.tagName === "SELECT") {
        showDefaultChoice(control, parameter.name, value);
    } else if (control.type === "number" && parameter.empty === null) {
        const key = knows(`${parameter.name}.default`) ? `${parameter.name}.default` : "default";
        placeholder(control, value === null ? key : null, String(value), parameter.default_values);
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

/** Returns {field, control} of a parameter: its label, its control and a hint. hint: id of a hint elsewhere, or null. */
export function makeField(parameter, id, hint = null) {
    const { name, requires } = parameter;
    const control = Object.assign(emptyControl(parameter), { id, required: requires !== null });
    limit(control, parameter);
    const label = sayOr(make("label", { htmlFor: id }), name, name.replaceAll("_", " "));
    const field = make("div", { className: control.type === "textarea" ? "field wide" : "field" }, label, control);
    field.dataset.param = name;
    if (hint) {
        control.setAttribute("aria-describedby", hint);
    } else if (knows(`${name}.about`)) {
        const about = say(make("p", { className: "hint", id: `${id}-about` }), `${name}.about`);
        control.setAttribute("aria-describedby", about.id);
        field.append(about);
    }
    return { field, control };
}

function addField(parameter, form, place) {
    const { field, control } = makeField(parameter, `field-${parameter.name}`);
    control.name = parameter.name;
    const required = form.elements[parameter.requires]?.closest(".field");
    place.contains(required ?? null) ? required.after(field) : place.append(field);
}

function emptyControl({ name, type, choices }) {
    if (type === "text") {
        return make("textarea", { rows: 2 });
    }
    if (type === "choice") {
        const options = choices.map((value) => sayOr(make("option", { value }), `${name}.${value}`, value));
        return make("select", {}, say(make("option", { value: "" }), "default"), ...options);
    }
    return make("input", { type: "number" });
}

/** Shows the default as the first option, instead of its own option. value: null if the server decides. */
function showDefaultChoice(select, name, value) {
    const [first, ...choices] = select.options;
    value === null ? say(first, "default") : sayOr(first, `${name}.${value}`, value);
    choices.forEach((option) => option.hidden = option.value === value);
}
