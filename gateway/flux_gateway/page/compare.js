/** Before and after, one over the other, with a slider between them. */

import { make } from "./dom.js";
import { label } from "./language.js";

/** before, after: URLs. */
export function compare(before, after, seed) {
    const under = label(make("img", { src: after, draggable: false }), "frame.result", { seed });
    const over = label(make("img", { src: before, className: "before", draggable: false }), "frame.before");
    const slider = label(make("input", { type: "range", min: 0, max: 100, value: 50 }), "frame.compare");
    const element = make("div", { className: "compare" }, under, over, slider);
    const cut = () => element.style.setProperty("--cut", `${slider.value}%`);
    slider.addEventListener("input", cut);
    cut();
    return element;
}
