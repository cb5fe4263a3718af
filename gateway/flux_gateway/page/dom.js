/** Elements, made and found. */

export function find(id) {
    return document.getElementById(id);
}

export function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
}
