/** From what the form holds to the fields of a request. Pure. */

export const MODES = ["redux", "img2img", "text2img", "controlnet"];

/** By what /health calls the modes. */
export const MODE_OF_SERVED = { redux: "redux", img2img: "img2img", text2img: "text2img", canny: "controlnet" };

/** The field that the picture goes into; null: the mode takes none. */
export function pictureField(mode) {
    return { redux: "input_image", img2img: "input_image", controlnet: "input_image" }[mode] ?? null;
}

/** values: of the form, all of them text. Returns everything but the picture; what is left to the server is left out. */
export function fieldsOf(values) {
    const fields = { mode: values.mode };
    const prompt = values.prompt.trim();
    const negative = values.negative.trim();
    if (prompt) {
        fields.prompt = prompt;
    }
    if (negative) {
        fields.negative_prompt = negative;
        fields.true_cfg_scale = Number(values.trueCfg);
    }
    if (values.mode === "img2img") {
        fields.strength = Number(values.strength);
    }
    fields.n = Number(values.count);
    fields.seed = values.seed.trim() === "" ? -1 : Number(values.seed);
    Object.assign(fields, sizeOf(values));
    if (values.steps) {
        fields.num_inference_steps = Number(values.steps);
    }
    if (values.guidance) {
        fields.cfg = Number(values.guidance);
    }
    if (values.lora) {
        fields.loras = [{ name: values.lora, weight: Number(values.loraWeight) }];
    }
    return fields;
}

/** size: "own", "custom" or WIDTHxHEIGHT. */
function sizeOf({ size, width, height }) {
    if (size === "own") {
        return {};
    }
    const [wide, high] = size === "custom" ? [width, height] : size.split("x");
    return { width: Number(wide), height: Number(high) };
}

/** What a mode needs and there is not, as a parameter of the request; null: nothing. */
export function missing(fields, hasPicture) {
    const picture = pictureField(fields.mode);
    if (picture && !hasPicture) {
        return picture;
    }
    return fields.mode === "text2img" && !fields.prompt ? "prompt" : null;
}

/** As a form has it, where a list is JSON. */
export function asText(value) {
    return typeof value === "object" ? JSON.stringify(value) : String(value);
}
