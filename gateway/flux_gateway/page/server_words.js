/** The server's English messages as texts of the page, where the page has a text for them. Pure. */

/** Pattern and key; named groups are the values of the text. */
const KNOWN = [
    [/has \d+ pixels, expected at most (?<most>\d+)/, "error.pixels"],
    [/expected (?<min>-?[\d.]+)\.\.(?<max>-?[\d.]+)/, "error.range"],
    [/greater than or equal to (?<min>-?[\d.]+)/, "error.least"],
    [/less than or equal to (?<most>-?[\d.]+)/, "error.most"],
    [/multiples? of (?<step>\d+)/, "error.multiple"],
    [/mask.* size|size.* mask/i, "error.mask"],
    [/at most \d+ characters|characters, expected/, "error.long"],
    [/no answer .* within|timed? ?out|too long/i, "error.time"],
    [/not (?:an|a readable|a valid) image|cannot (?:identify|decode)|no image|truncated/i, "error.image.server"],
    [/needs it|required/i, "error.empty"],
    [/reachable|connection/i, "server.unreachable"],
    [/no room|\bfull\b/i, "error.busy"],
];

/** Returns {key, values}, or null. */
export function knownMessage(words) {
    for (const [pattern, key] of KNOWN) {
        const found = pattern.exec(words);
        if (found) {
            return { key, values: { ...found.groups } };
        }
    }
    return null;
}
