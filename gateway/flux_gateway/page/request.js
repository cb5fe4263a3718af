/** Fields of a request, from the texts of the form's controls. Pure. contract: of /page/contract.json. */

/** mode: GenServe's name. */
export function modeOf(contract, mode) {
    return contract.modes.find((each) => each.genserve === mode);
}

/** The field of the mode's image; null: the mode takes none. */
export function imageField(contract, mode) {
    return modeOf(contract, mode)?.image ?? null;
}

/** Parameters that the mode takes. */
export function parametersOf(contract, mode) {
    const names = modeOf(contract, mode)?.parameters ?? [];
    return contract.parameters.filter(({ name }) => names.includes(name));
}

/** Whether another field is empty that this parameter requires. */
export function isIdle(parameter, values) {
    return parameter.requires !== null && textIn(values, parameter.requires) === "";
}

/** values: texts of the controls, by name. Returns all fields but the image; an empty control has no field. */
export function fieldsOf(contract, values) {
    const fields = { mode: values.mode };
    const all = { ...values, ...sidesOf(values) };
    for (const parameter of parametersOf(contract, values.mode)) {
        const text = isIdle(parameter, all) ? "" : textIn(all, parameter.name);
        if (text !== "") {
            fields[parameter.name] = valueOf(parameter, text);
        } else if (parameter.empty !== null) {
            fields[parameter.name] = parameter.empty;
        }
    }
    if (values.lora) {
        fields.loras = [{ name: values.lora, weight: Number(values.lora_weight) }];
    }
    return fields;
}

/** The first field that the mode requires and the request does not have; null: none. */
export function missing(contract, fields, hasImage) {
    const image = imageField(contract, fields.mode);
    if (image && !hasImage) {
        return image;
    }
    return modeOf(contract, fields.mode)?.required.find((name) => fields[name] === undefined) ?? null;
}

/** As a field of a form: a list is JSON. */
export function asText(value) {
    return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function textIn(values, name) {
    return (values[name] ?? "").trim();
}

function valueOf({ type }, text) {
    return type === "integer" || type === "number" ? Number(text) : text;
}

/** size: "own", "custom" or WIDTHxHEIGHT; only with "custom" the controls of the sides count. */
function sidesOf({ size, width, height }) {
    const [wide, high] = size === "custom" ? [width, height] : size === "own" ? ["", ""] : size.split("x");
    return { width: wide, height: high };
}
