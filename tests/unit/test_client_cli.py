from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib import metadata
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

import flux_client
from flux_client import FluxClient, GenerationFailed, RetryPolicy, Unreachable
from flux_client.cli import main
from flux_client.cli.command import _WaitReport
from flux_client.cli.outputs import with_flags
from flux_client.cli.parser import make_parser
from flux_client.cli.tasks import plan
from flux_client.fake import FakeTransport
from flux_client.similarity import weight_of
from flux_contract.modes import MODES

#: Runs `flux-client` with a fake server in a process of its own.
_CALL = """
import sys
from flux_client import FluxClient
from flux_client.cli import main
from flux_client.fake import FakeTransport
sys.exit(main(sys.argv[1:], lambda url, **_: FluxClient(transport=FakeTransport())))
"""


def image(path, colour="red"):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return str(path)


class Command:
    """`flux-client` with a fake server. opened: the arguments with which the client was opened."""

    def __init__(self, *errors, ready=True):
        self.transport = FakeTransport(*errors, ready=ready)
        self.opened = None

    def __call__(self, *argv):
        def open_client(url, **options):
            self.opened = (url, options)
            return FluxClient(transport=self.transport, timeout_s=options["timeout_s"], retry=RetryPolicy(attempts=1))

        return main([str(word) for word in argv], open_client)


def stems(*argv):
    return [task.stem for task in plan(make_parser().parse_args(argv))]


def test_file_names_have_the_image_mode_and_seed(tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert Command()("redux", image(tmp_path / "cat.png"), "-n", 2, "--seed", 5, "-o", out, "--format", "jpeg") == 0
    assert sorted(file.name for file in out.iterdir()) == ["cat-redux-5.jpeg", "cat-redux-6.jpeg"]
    assert Image.open(BytesIO((out / "cat-redux-5.jpeg").read_bytes())).format == "JPEG"
    printed = capsys.readouterr()
    assert printed.out.split() == [str(out / "cat-redux-5.jpeg"), str(out / "cat-redux-6.jpeg")]
    assert printed.err == ""


def test_images_are_written_even_if_stdout_fails(tmp_path):
    argv = ["redux", image(tmp_path / "cat.png"), "-n", "3", "--seed", "1", "-o", tmp_path / "out"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", _CALL, *argv], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["flux-client: standard output: [Errno 28] No space left on device"]
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_images_are_written_with_stdout_closed(tmp_path, monkeypatch):
    """Python then sets `sys.stdout` to None."""
    monkeypatch.setattr(sys, "stdout", None)
    assert Command()("redux", image(tmp_path / "cat.png"), "-n", 3, "-o", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_every_option_reaches_the_request(tmp_path):
    command = Command()
    argv = [
        "--prompt",
        "owl",
        "--image-strength",
        "0.5",
        "--detail",
        "2",
        "--detail-filter",
        "triangle",
        "--detail-weight",
        "all",
        "--mask",
        str(image(tmp_path / "mask.png")),
        "--crop",
        "--image-fit",
        "contain",
        "--start",
        "0.25",
        "--end",
        "0.75",
        "--prompt-strength",
        "2",
        "--prompt-start",
        "0.5",
        "--prompt-end",
        "1",
        "--negative-prompt",
        "fog",
        "--true-cfg",
        "3",
        "--lora",
        "ink:0.5",
        "--lora",
        "gold",
        "--format",
        "webp",
        "--height",
        "32",
        "--width",
        "48",
        "--steps",
        "3",
        "--guidance",
        "4.5",
        "--seed",
        "-1",
        "-n",
        "2",
        "--priority",
        "-1",
    ]
    argv += ["--url", "host:1", "--protocol", "http", "--timeout", "9"]
    assert command("redux", image(tmp_path / "cat.png"), "-o", tmp_path, *argv) == 0
    inputs = command.transport.sent[0].request.inputs
    assert {name: array.ravel().tolist() for name, array in inputs.items() if name != "IMAGE"} == {
        "PROMPT": [b"owl"],
        "IMAGE_STRENGTH": [0.5],
        "IMAGE_DETAIL": [2],
        "IMAGE_DETAIL_FILTER": [b"triangle"],
        "IMAGE_DETAIL_WEIGHT": [b"all"],
        "IMAGE_MASK": [(tmp_path / "mask.png").read_bytes()],
        "IMAGE_MASK_CROP": [1],
        "IMAGE_FIT": [b"contain"],
        "IMAGE_START": [0.25],
        "IMAGE_END": [0.75],
        "PROMPT_STRENGTH": [2],
        "PROMPT_START": [0.5],
        "PROMPT_END": [1],
        "NEGATIVE_PROMPT": [b"fog"],
        "TRUE_CFG_SCALE": [3],
        "LORA": [b"ink", b"gold"],
        "LORA_SCALE": [0.5, 1],
        "OUTPUT_FORMAT": [b"webp"],
        "HEIGHT": [32],
        "WIDTH": [48],
        "NUM_INFERENCE_STEPS": [3],
        "GUIDANCE_SCALE": [4.5],
        "NUM_IMAGES": [2],
        "SEED": [-1],
        "PRIORITY": [-1],
    }
    assert command.opened == ("host:1", {"protocol": "http", "timeout_s": 9.0})


def test_each_image_is_a_request_and_progress_is_shown(tmp_path, capsys):
    command = Command()
    assert command("redux", image(tmp_path / "a.png"), image(tmp_path / "b.png"), "-o", tmp_path / "out") == 0
    assert len(command.transport.sent) == 2
    assert "2/2" in capsys.readouterr().err


def test_blended_images_are_one_request(tmp_path):
    command = Command()
    images = [image(tmp_path / "a.png"), image(tmp_path / "b.png")]
    assert command("redux", *images, "--blend", "--similarity", "1,0.5", "-o", tmp_path / "out") == 0
    [sent] = command.transport.sent
    assert sent.request.inputs["IMAGE"].shape == (1, 2)
    assert sent.request.inputs["IMAGE_STRENGTH"].tolist() == [[1, pytest.approx(weight_of(0.5))]]
    assert (tmp_path / "out" / "a+b-redux-42.png").exists()


def test_summed_images_are_one_request(tmp_path):
    command = Command()
    images = [image(tmp_path / "a.png"), image(tmp_path / "b.png")]
    assert command("redux", *images, "--sum", "-o", tmp_path / "out") == 0
    [sent] = command.transport.sent
    assert sent.request.inputs["IMAGE_BLEND"].item() == b"sum"


def test_images_of_the_same_name_do_not_overwrite_each_other(tmp_path):
    images = [image(tmp_path / folder / "cat.png", colour) for folder, colour in (("a", "red"), ("b", "blue"))]
    assert Command()("redux", *images, "-o", tmp_path / "out") == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["cat-2-redux-42.png", "cat-redux-42.png"]


def test_each_task_has_a_unique_name():
    assert stems("redux", "a/x.png", "b/x.png", "x-2.png", "c/x.jpg") == ["x", "x-2", "x-2-2", "x-3"]


@pytest.mark.parametrize(
    "argv", [["redux", "\u753b" * 100 + ".png"], ["redux", "--blend", "\u753b" * 100], ["text2img", "\u753b" * 100]]
)
def test_long_names_are_cut_to_the_file_system_limit(argv):
    assert stems(*argv) == ["\u753b" * 66]


def test_existing_files_are_not_overwritten(tmp_path, capsys):
    (tmp_path / "cat-redux-42-3.png").symlink_to(tmp_path / "nowhere.png")
    given = image(tmp_path / "cat-redux-42.png")
    before = (tmp_path / "cat-redux-42.png").read_bytes()
    for name in ("cat-redux-42-2.png", "cat-redux-42-4.png"):
        assert Command()("redux", image(tmp_path / "cat.png"), "--mask", given, "-o", tmp_path) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    assert (tmp_path / "cat-redux-42.png").read_bytes() == before
    assert (tmp_path / "cat-redux-42-2.png").read_bytes() == (tmp_path / "cat-redux-42-4.png").read_bytes()


def test_a_failure_is_reported_on_one_line_and_other_tasks_continue(tmp_path, capsys):
    images = [image(tmp_path / f"{name}.png") for name in "abc"]
    assert Command(GenerationFailed("bug\nin two lines"))("redux", *images, "-o", tmp_path / "out") == 1
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["b-redux-42.png", "c-redux-42.png"]
    assert f"flux-client: {images[0]}: bug in two lines\n" in capsys.readouterr().err


def test_a_missing_image_is_reported_on_one_line(tmp_path, capsys):
    assert Command()("redux", tmp_path / "nowhere.png", "-o", tmp_path / "out") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "nowhere.png" in line


def test_an_unreachable_server_is_reported_on_one_line(tmp_path, capsys):
    assert Command(Unreachable("host:8001: refused"))("redux", image(tmp_path / "a.png"), "-o", tmp_path) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("a.png: host:8001: refused")


def test_grpc_streams_and_http_does_not(tmp_path):
    command = Command()
    for protocol in ("grpc", "http"):
        command("redux", image(tmp_path / "a.png"), "-o", tmp_path / "out", "--protocol", protocol)
    assert [sent.request.model for sent in command.transport.sent] == ["flux_stream", "flux_redux"]


def test_previews_are_written_as_they_arrive(tmp_path):
    images = [image(tmp_path / folder / "cat.png", colour) for folder, colour in (("a", "red"), ("b", "blue"))]
    argv = ["-o", tmp_path / "out", "-n", 2, "--steps", 7]
    assert Command()("redux", *images, *argv, "--previews", tmp_path / "seen" / "here", "--preview-steps", 3) == 0
    assert sorted(file.name for file in (tmp_path / "seen" / "here").iterdir()) == sorted(
        f"{stem}-redux-{image}-{step}.jpg" for stem in ("cat", "cat-2") for image in (0, 1) for step in (3, 6)
    )
    assert Command()("redux", images[0], *argv, "--previews", tmp_path / "usual") == 0
    usual = sorted(file.name for file in (tmp_path / "usual").iterdir())
    assert usual == [f"cat-redux-{image}-{step}.jpg" for image in (0, 1) for step in (3, 6)]


def test_previews_do_not_overwrite_files(tmp_path):
    given = image(tmp_path / "cat-redux-0-5.jpg")
    before = (tmp_path / "cat-redux-0-5.jpg").read_bytes()
    argv = ["-o", tmp_path / "out", "--previews", tmp_path]
    assert Command()("redux", image(tmp_path / "cat.png"), "--mask", given, *argv) == 0
    assert (tmp_path / "cat-redux-0-5.jpg").read_bytes() == before
    assert (tmp_path / "cat-redux-0-5-2.jpg").exists()


def bar_of(monkeypatch, capsys, is_terminal, *argv):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    assert Command()("redux", *argv) == 0
    return capsys.readouterr().err


def test_a_terminal_shows_the_steps_of_all_images(tmp_path, monkeypatch, capsys):
    argv = [image(tmp_path / "a.png"), image(tmp_path / "b.png"), "-o", tmp_path / "out", "-n", 2]
    assert "200/200" in bar_of(monkeypatch, capsys, True, *argv)
    assert "12/12" in bar_of(monkeypatch, capsys, True, *argv, "--steps", 3)
    assert "10/10" in bar_of(monkeypatch, capsys, True, argv[0], "--steps", 10, "-o", tmp_path / "out")
    assert "12/12" in bar_of(monkeypatch, capsys, True, *argv[:-2], "--steps", 3, "--seed", "7,9")


def test_without_a_terminal_or_reported_steps_the_bar_counts_images(tmp_path, monkeypatch, capsys):
    argv = [image(tmp_path / "a.png"), image(tmp_path / "b.png"), "-o", tmp_path / "out"]
    assert "2/2" in bar_of(monkeypatch, capsys, True, *argv, "--protocol", "http")
    assert "2/2" in bar_of(monkeypatch, capsys, False, *argv)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_disables_the_progress_bar(tmp_path, monkeypatch, capsys, is_terminal):
    argv = [image(tmp_path / "a.png"), image(tmp_path / "b.png"), "-o", tmp_path / "out", "--quiet"]
    assert bar_of(monkeypatch, capsys, is_terminal, *argv) == ""


def test_ctrl_c_cancels_the_request_and_exits_with_130(tmp_path, capsys):
    class Interrupted(FakeTransport):
        def stream(self, *arguments):
            answers = super().stream(*arguments)
            answers._answers = self._interrupted(answers._answers)
            return answers

        def _interrupted(self, answers):
            yield next(answers)
            raise KeyboardInterrupt

    command = Command()
    command.transport = Interrupted()
    images = [image(tmp_path / "a.png"), image(tmp_path / "b.png")]
    assert command("redux", *images, "--quiet", "-o", tmp_path / "out") == 130
    assert [stream.cancelled for stream in command.transport.streams] == [True]
    assert command.transport.closed
    assert capsys.readouterr().err == "flux-client: interrupted\n"


def test_ready_prints_ready(capsys):
    assert Command()("ready") == 0
    assert capsys.readouterr() == ("ready\n", "")


def test_ready_reports_why_it_waits(capsys):
    command = Command()
    answers = iter([False, False, True])
    command.transport.is_ready = lambda model, timeout_s: next(answers)
    assert command("ready") == 0
    out, err = capsys.readouterr()
    reason = "the server responds, but flux_redux is not ready"
    assert (out, err) == ("ready\n", f"flux-client: waiting for the server (0 s): {reason}\n")


def test_ready_repeats_the_reason_every_ten_seconds(capsys):
    times = iter([0.0, 0.0, 1.0, 9.0, 10.0, 12.0])
    report = _WaitReport(lambda: next(times))
    for reason in ("refused", "refused", "refused", "refused", "loading"):
        report(Unreachable(reason))
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("flux-client: waiting for the server ") for line in lines] == [
        "(0 s): refused",
        "(10 s): refused",
        "(12 s): loading",
    ]


def test_a_server_that_does_not_become_ready_is_an_error(capsys):
    assert Command(ready=False)("ready", "--timeout", "0.01") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "did not become ready in time" in line


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as exit_info:
        Command()("--version")
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"flux-client {flux_client.__version__}\n"
    assert flux_client.__version__ == metadata.version("flux-triton")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["redux", "a.png", "--steps", "0"], "--steps 0, expected 1..100"),
        (
            ["redux", "a.png", "--similarity", "2"],
            "--similarity 2.0, expected 0..1; --image-strength accepts weights",
        ),
        (
            ["redux", "a.png", "--seed", "1,2", "-n", "3"],
            "--seed has 2 values for 3 images, expected one, or one each",
        ),
        (["text2img", "owl" * 2000], "TEXT has 6000 characters, expected at most 4096"),
        (["redux", "a.png", "--timeout", "0"], "--timeout 0.0, expected more than 0 seconds and at most 1e+09"),
    ],
)
def test_messages_name_flags(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "a.png")
    assert Command()(*argv) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(f": {message}")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_messages_name_the_flag_of_every_parameter(mode):
    for parameter in mode.options:
        if parameter.all_flags:
            message = with_flags(f"flux_base: {parameter.name}=7, expected 8", mode)
            assert message == f"{parameter.all_flags[-1]} 7, expected 8"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["redux"],
        ["redux", "a.png", "--steps", "many"],
        ["redux", "a.png", "--protocol", "smtp"],
        ["redux", "a.png", "--similarity", "strong"],
        ["redux", "a.png", "--similarity", "0.5,1"],
        ["redux", "a.png", "--strength", "0.5"],
        ["redux", "a.png", "--fit", "contain"],
        ["redux", "a.png", "--preview-steps", "3"],
        ["redux", "a.png", "--preview-method", "vae"],
        ["redux", "a.png", "--previews", "seen", "--protocol", "http"],
        ["redux", "a.png", "b.png", "--mask", "a-mask.png", "--mask", "b-mask.png"],
        ["redux", "a.png", "--detail", "1,2"],
        ["redux", "a.png", "--lora", "ink:much"],
        ["redux", "a.png", "--seed", "7,"],
        ["redux", "a.png", "--control-scale", "1"],
        ["img2img"],
        ["img2img", "a.png", "--strength", "0.5,1"],
        ["img2img", "a.png", "--image-strength", "0.5,1"],
        ["img2img", "a.png", "--fit", "tiles"],
        ["text2img"],
        ["text2img", "owl", "--image-strength", "1"],
        ["text2img", "owl", "--preview-steps", "3"],
        ["canny"],
        ["canny", "a.png", "--strength", "1"],
        ["canny", "a.png", "--start", "0,0.5"],
        ["frobnicate"],
    ],
)
def test_a_wrong_command_line_exits_with_two(argv, capsys):
    with pytest.raises(SystemExit) as exit_info:
        Command()(*argv)
    assert exit_info.value.code == 2
    assert "usage: flux-client" in capsys.readouterr().err


def test_rejects_a_url_with_a_scheme(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["ready", "--url", "http://localhost:8000"])
    assert exit_info.value.code == 2
    assert "expected host:port such as localhost:8001" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-o", "--previews"])
def test_rejects_an_empty_folder_name(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        Command()("redux", image(tmp_path / "cat.png"), option, "")
    assert "expected a folder name" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["", "inner"])
def test_rejects_a_file_in_place_of_a_folder(inside, tmp_path, capsys):
    file = tmp_path / "out"
    file.touch()
    assert Command()("redux", image(tmp_path / "cat.png"), "-o", file / inside) == 1
    assert capsys.readouterr().err == f"flux-client: {file / inside} is not a folder and cannot become one\n"


def test_an_image_is_read_from_a_pipe_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    house = image(tmp_path / "house.png")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(Path(house).read_bytes()))
    writer.start()
    command = Command()
    argv = ["--reference", tmp_path / "pipe", "-o", tmp_path / "out", "--edges-out", tmp_path / "out"]
    assert command("canny", house, tmp_path / "pipe", *argv) == 0
    writer.join()
    sent = [
        array.item() for each in command.transport.sent for array in each.request.inputs.values() if array.size == 1
    ]
    assert sent.count(Path(house).read_bytes()) == 6


def test_an_image_is_read_from_standard_input(tmp_path):
    with open(image(tmp_path / "cat.png"), "rb") as cat:
        piped = subprocess.Popen(["cat"], stdin=cat, stdout=subprocess.PIPE)
    ended = subprocess.run([sys.executable, "-c", _CALL, "redux", "/dev/stdin", "-o", tmp_path], stdin=piped.stdout)
    piped.stdout.close()
    piped.wait()
    assert ended.returncode == 0
    assert (tmp_path / "stdin-redux-42.png").exists()
