"""`flux-client` beyond variations: changed images, images of prompts, images after edges."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from test_client_cli import Command, image, stems

from flux_client import GenerationFailed
from flux_client.fake import FakeTransport


def sent_by(command):
    """Of each request its model and its inputs as plain values."""
    return [
        (sent.request.model, {name: array[0].tolist() for name, array in sent.request.inputs.items()})
        for sent in command.transport.sent
    ]


def names_in(folder):
    return sorted(file.name for file in folder.iterdir())


def test_each_image_is_changed_by_itself_beside_all_references(tmp_path):
    command = Command()
    cat, dog, ink = (image(tmp_path / f"{name}.png", name) for name in ("red", "blue", "black"))
    argv = ["--reference", ink, "--strength", 0.5, "--image-strength", "0,1", "--fit", "contain", "--seed", "7,9"]
    assert command("img2img", cat, dog, *argv, "--image-fit", "cover", "--sum", "-o", tmp_path / "out") == 0
    told = {
        "MODE": [b"img2img"],
        "STRENGTH": [0.5],
        "IMAGE_STRENGTH": [0, 1],
        "IMAGE_BLEND": [b"sum"],
        "IMAGE_FIT": [b"cover"],
        "FIT": [b"contain"],
        "SEED": [7, 9],
    }
    assert sent_by(command) == [
        ("flux_stream", {**told, "IMAGE": [Path(subject).read_bytes(), Path(ink).read_bytes()]})
        for subject in (cat, dog)
    ]
    assert names_in(tmp_path / "out") == ["blue-7.png", "blue-9.png", "red-7.png", "red-9.png"]


def test_an_image_may_be_changed_by_a_share_of_noise(tmp_path):
    command = Command()
    assert command("img2img", image(tmp_path / "a.png"), "--start-sigma", 0.25, "-o", tmp_path / "out") == 0
    [(_, inputs)] = sent_by(command)
    assert inputs["START_SIGMA"] == [0.25]
    assert "STRENGTH" not in inputs


def test_each_prompt_is_a_request_and_names_its_images(tmp_path, capsys):
    command = Command()
    prompts = ["A red apple, on a table!", "a red apple on a table", "../../etc/passwd", "\N{OWL}"]
    argv = ["--negative-prompt", "fog", "--true-cfg", 3, "--lora", "ink:-0.5", "--prompt-strength", 2, "--steps", 2]
    assert command("text2img", *prompts, *argv, "-o", tmp_path / "out") == 0
    told = {
        "MODE": [b"text2img"],
        "NEGATIVE_PROMPT": [b"fog"],
        "TRUE_CFG_SCALE": [3],
        "LORA": [b"ink"],
        "LORA_SCALE": [-0.5],
        "PROMPT_STRENGTH": [2],
        "NUM_INFERENCE_STEPS": [2],
    }
    assert sent_by(command) == [("flux_stream", {**told, "PROMPT": [prompt.encode()]}) for prompt in prompts]
    assert names_in(tmp_path / "out") == [
        "a-red-apple-on-a-table-2-42.png",
        "a-red-apple-on-a-table-42.png",
        "etc-passwd-42.png",
        "image-42.png",
    ]
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["a/b", "a\\b", "a:b", "a\nb", " a b ", "A-B", "a\udcffb", "--a..b"])
def test_a_prompt_becomes_a_name_that_every_file_system_takes(prompt):
    assert stems("text2img", "--", prompt) == ["a-b"]


def test_a_prompt_that_fails_is_one_line_with_its_beginning(tmp_path, capsys):
    prompt = "an owl\n" * 100
    command = Command(GenerationFailed("bug"))
    assert command("text2img", prompt, "a cat", "-o", tmp_path / "out") == 1
    assert f"flux-client: {' '.join(prompt.split())[:60]}: bug\n" in capsys.readouterr().err
    assert names_in(tmp_path / "out") == ["a-cat-42.png"]


def test_edges_are_followed_and_written(tmp_path):
    command = Command()
    house, ink = image(tmp_path / "house.png"), image(tmp_path / "ink.png", "black")
    argv = ["--canny-low", 50, "--canny-high", 150, "--fit", "stretch", "--height", 32, "--width", 48]
    steering = ["--reference", ink, "--control-scale", 0.5, "--control-start", 0.25, "--control-end", 0.75]
    out, seen = tmp_path / "out", tmp_path / "new" / "seen"
    assert command("canny", house, *argv, *steering, "--prompt", "owl", "-o", out, "--edges-out", seen) == 0
    edges = {
        "CONTROL_IMAGE": [Path(house).read_bytes()],
        "CANNY_LOW": [50],
        "CANNY_HIGH": [150],
        "FIT": [b"stretch"],
        "HEIGHT": [32],
        "WIDTH": [48],
    }
    steered = {
        "MODE": [b"canny"],
        "IMAGE": [Path(ink).read_bytes()],
        "CONTROL_SCALE": [0.5],
        "CONTROL_START": [0.25],
        "CONTROL_END": [0.75],
        "PROMPT": [b"owl"],
    }
    assert sent_by(command) == [("canny_edges", edges), ("flux_stream", {**edges, **steered})]
    assert names_in(out) == ["house-42.png"]
    with Image.open(seen / "house-edges.png") as written:
        assert written.size == (48, 32)


def test_edges_may_be_given(tmp_path):
    command = Command()
    assert command("canny", image(tmp_path / "house.png"), "--edges-ready", "-o", tmp_path / "out") == 0
    [(_, inputs)] = sent_by(command)
    assert inputs["CONTROL_KIND"] == [b"edges"]
    assert "IMAGE" not in inputs


def test_over_http_each_mode_is_asked_plainly(tmp_path):
    command = Command()
    cat, out = image(tmp_path / "cat.png"), ["-o", tmp_path / "out", "--protocol", "http"]
    for argv in (["img2img", cat], ["text2img", "owl"], ["canny", cat]):
        assert command(*argv, *out) == 0
    assert [model for model, _ in sent_by(command)] == ["flux_img2img", "flux_text2img", "flux_canny"]


def test_previews_of_a_prompt_are_named_by_it(tmp_path):
    argv = ["--previews", tmp_path / "seen", "--preview-steps", 3, "--steps", 6, "-o", tmp_path / "out"]
    command = Command()
    assert command("text2img", "an owl", *argv, "--preview-method", "vae") == 0
    assert sent_by(command)[0][1]["PREVIEW_METHOD"] == [b"vae"]
    assert names_in(tmp_path / "seen") == ["an-owl-0-3.jpg"]


@pytest.mark.parametrize(
    ("command", "given", "argv"),
    [
        ("img2img", "cat-42.png", ["--reference", "cat-42.png"]),
        ("img2img", "cat-42.png", ["--mask", "cat-42.png"]),
        ("canny", "cat-42.png", ["--reference", "cat-42.png"]),
        ("canny", "cat-edges.png", ["--reference", "cat-edges.png", "--edges-out", "."]),
    ],
)
def test_nothing_given_is_ever_overwritten(tmp_path, monkeypatch, capsys, command, given, argv):
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "cat.png")
    image(tmp_path / given, "blue")
    before = (tmp_path / given).read_bytes()
    assert Command()(command, "cat.png", *argv, "-o", ".") == 1
    assert (tmp_path / given).read_bytes() == before
    assert "is one of the input images" in capsys.readouterr().err


def test_a_terminal_shows_the_steps_that_the_server_tells(tmp_path, monkeypatch, capsys):
    class Schnell(FakeTransport):
        """Takes four steps where nobody says how many."""

        def stream(self, request, timeout_s, request_id):
            answers = super().stream(request, timeout_s, request_id)
            answers._answers = self._of_four_steps(answers._answers)
            return answers

        def _of_four_steps(self, answers):
            for answer in answers:
                if "PROGRESS" not in answer:
                    yield answer
                elif answer["PROGRESS"][0, 1] <= 4:
                    answer["PROGRESS"][0, 2] = 4
                    yield answer

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    command = Command()
    command.transport = Schnell()
    assert command("text2img", "an owl", "a cat", "-n", 2, "-o", tmp_path / "out") == 0
    assert "16/16" in capsys.readouterr().err


def test_the_images_are_in_the_format_asked_for(tmp_path):
    assert Command()("text2img", "an owl", "--format", "webp", "-o", tmp_path / "out") == 0
    assert Image.open(BytesIO((tmp_path / "out" / "an-owl-42.webp").read_bytes())).format == "WEBP"
