/** Builds the fields of a request from the texts of the form's controls. Pure. contract: from /page/contract.json. */

/** mode: GenServe's name. */
export function modeOf(contract, mode) {
    return contract.modes.find((each) => each.genserve === mode);
}

/** Parameters that the mode accepts. */
export function parametersOf(contract, mode) {
    const names = modeOf(contract, mode)?.parameters ?? [];
    return contract.parameters.filter(({ name }) => names.includes(name));
}

/** Whether a field that this parameter requires is empty. */
export function isIdle(parameter, values) {
    return parameter.requires !== null && textIn(values, parameter.requires) === "";
}

/**
 * Returns all fields except files; an empty control has no field.
 *
 * values: texts of the controls, by name. images: texts of the controls of each image, by name.
 */
export function fieldsOf(contract, values, images = []) {
    const fields = { mode: values.mode };
    const all = { ...values, ...sidesOf(values) };
    for (const parameter of parametersOf(contract, values.mode)) {
        const value = parameter.per_image
            ? valuePerImage(parameter, values.mode, images)
            : valueOf(parameter, isIdle(parameter, all) ? "" : textIn(all, parameter.name));
        if (value !== null) {
            fields[parameter.name] = value;
        } else if (parameter.empty !== null) {
            fields[parameter.name] = parameter.empty;
        }
    }
    if (values.lora) {
        fields.loras = [{ name: values.lora, weight: Number(values.lora_weight) }];
    }
    return fields;
}

/** Returns the files of a request, [{field, file}]. images: [{file, mask}]; a mode with masks needs one for each image. */
export function filesOf({ image, images: several, mask: maskField }, images) {
    const field = images.length > 1 ? several : image;
    const masks = images.map(({ mask }) => mask).filter(Boolean);
    return [
        ...images.map(({ file }) => ({ field, file })),
        ...(maskField ? masks.map((file) => ({ field: maskField, file })) : []),
    ];
}

/** Returns the first field that the mode requires and the request lacks, or null. images: [{mask}]. */
export function missing(contract, fields, images) {
    const mode = modeOf(contract, fields.mode);
    if (mode?.image && images.length === 0) {
        return mode.image;
    }
    if (mode?.needs_mask && !images.some(({ mask }) => mask)) {
        return mode.mask;
    }
    return mode?.required.find((name) => fields[name] === undefined) ?? null;
}

/** Returns the texts of a field in a form: one for each value of a list, and JSON for objects. */
export function asTexts(value) {
    if (Array.isArray(value) && value.every((each) => typeof each !== "object")) {
        return value.map(String);
    }
    return [typeof value === "object" ? JSON.stringify(value) : String(value)];
}

function textIn(values, name) {
    return (values[name] ?? "").trim();
}

function valueOf({ type }, text) {
    if (text === "") {
        return null;
    }
    return type === "integer" || type === "number" ? Number(text) : text;
}

/** Returns one value if it is the same for all images, a list if not, and null if no image has a value. */
function valuePerImage(parameter, mode, images) {
    const given = images.map((each) => valueOf(parameter, textIn(each, parameter.name)));
    if (given.every((value) => value === null)) {
        return null;
    }
    const values = given.map((value) => value ?? parameter.default[mode]);
    return values.every((value) => value === values[0]) ? values[0] : values;
}

/** size: "own", "custom" or WIDTHxHEIGHT. The controls of the sides count only with "custom". */
function sidesOf({ size, width, height }) {
    const [wide, high] = size === "custom" ? [width, height] : size === "own" ? ["", ""] : size.split("x");
    return { width: wide, height: high };
}
