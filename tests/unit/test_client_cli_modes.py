"""`flux-client` in the modes other than redux: img2img, text2img and canny."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from test_client_cli import Command, image, stems

from flux_client import GenerationFailed
from flux_client.fake import FakeTransport


def sent_by(command):
    """Returns the model of each request, and its inputs as plain values."""
    return [
        (sent.request.model, {name: array[0].tolist() for name, array in sent.request.inputs.items()})
        for sent in command.transport.sent
    ]


def names_in(folder):
    return sorted(file.name for file in folder.iterdir())


def test_each_image_is_a_request_with_all_references(tmp_path):
    command = Command()
    cat, dog, ink = (image(tmp_path / f"{name}.png", name) for name in ("red", "blue", "black"))
    argv = ["--reference", ink, "--strength", 0.5, "--image-strength", "0,1", "--fit", "contain", "--seed", "7,9"]
    assert command("img2img", cat, dog, *argv, "--image-fit", "cover", "--sum", "-o", tmp_path / "out") == 0
    expected = {
        "MODE": [b"img2img"],
        "STRENGTH": [0.5],
        "IMAGE_STRENGTH": [0, 1],
        "IMAGE_BLEND": [b"sum"],
        "IMAGE_FIT": [b"cover"],
        "FIT": [b"contain"],
        "SEED": [7, 9],
    }
    assert sent_by(command) == [
        ("flux_stream", {**expected, "IMAGE": [Path(subject).read_bytes(), Path(ink).read_bytes()]})
        for subject in (cat, dog)
    ]
    assert names_in(tmp_path / "out") == [f"{name}-img2img-{seed}.png" for name in ("blue", "red") for seed in (7, 9)]


def test_start_sigma_replaces_strength(tmp_path):
    command = Command()
    assert command("img2img", image(tmp_path / "a.png"), "--start-sigma", 0.25, "-o", tmp_path / "out") == 0
    [(_, inputs)] = sent_by(command)
    assert inputs["START_SIGMA"] == [0.25]
    assert "STRENGTH" not in inputs


def test_each_prompt_is_a_request_and_names_its_files(tmp_path, capsys):
    command = Command()
    prompts = ["A red apple, on a table!", "a red apple on a table", "../../etc/passwd", "\N{OWL}"]
    argv = ["--negative-prompt", "fog", "--true-cfg", 3, "--lora", "ink:-0.5", "--prompt-strength", 2, "--steps", 2]
    assert command("text2img", *prompts, *argv, "-o", tmp_path / "out") == 0
    expected = {
        "MODE": [b"text2img"],
        "NEGATIVE_PROMPT": [b"fog"],
        "TRUE_CFG_SCALE": [3],
        "LORA": [b"ink"],
        "LORA_SCALE": [-0.5],
        "PROMPT_STRENGTH": [2],
        "NUM_INFERENCE_STEPS": [2],
    }
    assert sent_by(command) == [("flux_stream", {**expected, "PROMPT": [prompt.encode()]}) for prompt in prompts]
    assert names_in(tmp_path / "out") == [
        "a-red-apple-on-a-table-2-text2img-42.png",
        "a-red-apple-on-a-table-text2img-42.png",
        "etc-passwd-text2img-42.png",
        "image-text2img-42.png",
    ]
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["a/b", "a\\b", "a:b", "a\nb", " a b ", "A-B", "a\udcffb", "--a..b"])
def test_a_prompt_becomes_a_portable_file_name(prompt):
    assert stems("text2img", "--", prompt) == ["a-b"]


def test_a_failed_prompt_is_reported_by_its_first_characters(tmp_path, capsys):
    prompt = "an owl\n" * 100
    command = Command(GenerationFailed("bug"))
    assert command("text2img", prompt, "a cat", "-o", tmp_path / "out") == 1
    assert f"flux-client: {' '.join(prompt.split())[:60]}: bug\n" in capsys.readouterr().err
    assert names_in(tmp_path / "out") == ["a-cat-text2img-42.png"]


def test_canny_sends_the_image_and_writes_its_edge_map(tmp_path):
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
    assert names_in(out) == ["house-canny-42.png"]
    with Image.open(seen / "house-edges.png") as written:
        assert written.size == (48, 32)


def test_edge_maps_are_accepted(tmp_path):
    command = Command()
    assert command("canny", image(tmp_path / "house.png"), "--edges-ready", "-o", tmp_path / "out") == 0
    [(_, inputs)] = sent_by(command)
    assert inputs["CONTROL_KIND"] == [b"edges"]
    assert "IMAGE" not in inputs


def test_over_http_each_mode_calls_its_ensemble(tmp_path):
    command = Command()
    cat, out = image(tmp_path / "cat.png"), ["-o", tmp_path / "out", "--protocol", "http"]
    for argv in (["img2img", cat], ["text2img", "owl"], ["canny", cat]):
        assert command(*argv, *out) == 0
    assert [model for model, _ in sent_by(command)] == ["flux_img2img", "flux_text2img", "flux_canny"]


def test_previews_are_named_after_the_prompt(tmp_path):
    argv = ["--previews", tmp_path / "seen", "--preview-steps", 3, "--steps", 6, "-o", tmp_path / "out"]
    command = Command()
    assert command("text2img", "an owl", *argv, "--preview-method", "vae") == 0
    assert sent_by(command)[0][1]["PREVIEW_METHOD"] == [b"vae"]
    assert names_in(tmp_path / "seen") == ["an-owl-text2img-0-3.jpg"]


def test_modes_write_files_of_their_own_name(tmp_path):
    cat, out = image(tmp_path / "cat.png"), tmp_path / "out"
    for mode in ("redux", "img2img", "canny"):
        assert Command()(mode, cat, "-o", out) == 0
    assert names_in(out) == ["cat-canny-42.png", "cat-img2img-42.png", "cat-redux-42.png"]


@pytest.mark.parametrize(
    ("command", "given", "argv", "written"),
    [
        ("img2img", "cat-img2img-42.png", ["--reference", "cat-img2img-42.png"], "cat-img2img-42-2.png"),
        ("img2img", "cat-img2img-42.png", ["--mask", "cat-img2img-42.png"], "cat-img2img-42-2.png"),
        ("canny", "cat-edges.png", ["--reference", "cat-edges.png", "--edges-out", "."], "cat-edges-2.png"),
    ],
)
def test_input_images_are_not_overwritten(tmp_path, monkeypatch, command, given, argv, written):
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "cat.png")
    image(tmp_path / given, "blue")
    before = (tmp_path / given).read_bytes()
    assert Command()(command, "cat.png", *argv, "-o", ".") == 0
    assert (tmp_path / given).read_bytes() == before
    assert (tmp_path / written).exists()


def test_a_terminal_shows_the_steps_that_the_server_reports(tmp_path, monkeypatch, capsys):
    class Schnell(FakeTransport):
        """Runs four steps by default."""

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


def test_images_have_the_requested_format(tmp_path):
    assert Command()("text2img", "an owl", "--format", "webp", "-o", tmp_path / "out") == 0
    assert Image.open(BytesIO((tmp_path / "out" / "an-owl-text2img-42.webp").read_bytes())).format == "WEBP"
