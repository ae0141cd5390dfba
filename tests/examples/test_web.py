"""examples/web answers in a browser as ``predict`` does, and asks nobody but its own server."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import onnx
import PIL
import pytest
from chromium import PROGRAM, Chromium
from example_scripts import EXAMPLES, TOLD, picture, serialised
from PIL import Image, PngImagePlugin

import levit_deploy
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.pictures.preprocessing import INTERPOLATIONS, Preprocessing
from levit_deploy.pictures.transform import Transform, UnfitPictureError
from levit_deploy.targets.target import ExportOptions

pytestmark = pytest.mark.web

WEB = EXAMPLES / "web"
TEXT = "document.getElementById('{}').textContent"
ANSWERS = """[...document.querySelectorAll('#answers li')].map((li) => [
    Number(li.querySelector('.class').value),
    li.querySelector('.class').textContent,
    Number(li.querySelector('.probability').value),
])"""
DONE = "document.getElementById('results').ariaBusy === 'false' && " + TEXT.format("note")


class Page(Chromium):
    """The page in a browser, and what a user does there."""

    def visit(self, address: str) -> None:
        self.evaluate("window.left = true")
        self.call("Page.navigate", url=address)
        self.wait_for("!window.left && document.readyState === 'complete'")

    def give(self, what: str, path: Path) -> None:
        """Choose a file, and wait until the page is done with it."""
        self.evaluate(TEXT.format("note") + " = ''")
        self.choose(f"#{what}", path)
        self.wait_for(DONE)

    def answers(self) -> list[tuple[int, str, float]]:
        assert self.problem() == ""
        return [tuple(answer) for answer in self.evaluate(ANSWERS)]

    def problem(self) -> str:
        hidden = self.evaluate("document.getElementById('problem').hidden")
        return "" if hidden else str(self.evaluate(TEXT.format("problem")))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The page's folder, to which files can be added."""
    if not (WEB / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: npm install --ignore-scripts")
    folder = tmp_path_factory.mktemp("site")
    for path in WEB.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def served(site) -> Iterator[str]:
    """The address at which serve.py offers it."""
    command = [sys.executable, site / "serve.py", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory, served) -> Iterator[Page]:
    if PROGRAM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    page = Page(tmp_path_factory.mktemp("profile"))
    page.visit(served)
    yield page
    page.close()


@pytest.fixture
def page(browser, served) -> Iterator[Page]:
    """The browser, which has asked its own server only, and in which no error was left over."""
    yield browser
    assert [url for url in browser.requested if not url.startswith(served)] == []
    assert browser.thrown == []


def check_answers(page: Page, artifact: Path, path: Path, atol: float = 1e-4) -> None:
    (prediction,) = levit_deploy.predict(artifact, path)
    expected = [(a.index, a.label or f"class {a.index}") for a in prediction.answers]
    answers = page.answers()
    assert len(expected) == 5
    assert [answer[:2] for answer in answers] == expected
    probabilities = [answer.probability for answer in prediction.answers]
    np.testing.assert_allclose([answer[2] for answer in answers], probabilities, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(),
        ExportOptions(output="probabilities"),
        ExportOptions(input="uint8", output="probabilities"),
        ExportOptions(batch_size=3),
        ExportOptions(opset=23),
        ExportOptions(opset=23, input="uint8", batch_size=1),
    ],
    ids=["plain", "probabilities", "bytes", "fixed batch", "opset 23", "opset 23, bytes"],
)
def test_it_answers_as_predict_does_by_any_interface(page, files, tmp_path, options):
    checkpoint = read_checkpoint(files / "small.pth", preprocessing=TOLD)
    artifact, path = tmp_path / "exported.onnx", picture(tmp_path, "colours")
    artifact.write_bytes(serialised("onnx", checkpoint, options))
    page.give("model", artifact)
    page.give("picture", path)
    check_answers(page, artifact, path)


def with_alpha(folder: Path, mode: str) -> Path:
    pixels = np.random.default_rng(4).integers(0, 256, (90, 120, 4), np.uint8)
    pixels[:40, :, 3] = 0  # whose colours a browser's canvas forgets
    path = folder / "picture.png"
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def photograph(folder: Path, name: str) -> Path:
    pixels = np.random.default_rng(5).integers(0, 256, (15, 20, 3), np.uint8)
    exif, chunks = Image.Exif(), PngImagePlugin.PngInfo()
    if name.endswith(".jpg"):  # Chromium does not turn a WebP
        exif[0x0112] = 8
    chunks.add(b"gAMA", (100_000).to_bytes(4, "big"))  # a browser would make it brighter
    made = Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC)
    made.save(folder / name, exif=exif, pnginfo=chunks)
    return folder / name


NAMES = ("a.png", "a.jpg", "a.webp")  # both decode the last two by the same libraries


@pytest.mark.parametrize("network", ["small", "digits"])
def test_it_reads_pictures_of_every_kind_as_pillow_does(page, files, tmp_path, network):
    page.give("model", files / f"{network}.spatial")
    kinds = ["colours", "tall", "grey", "palette", "turned by Exif"]
    makers = [lambda kind=kind: picture(tmp_path, kind) for kind in kinds]
    makers += [lambda mode=mode: with_alpha(tmp_path, mode) for mode in ("RGBA", "LA")]
    makers += [lambda name=name: photograph(tmp_path, name) for name in NAMES]
    for make in makers:
        path = make()
        page.give("picture", path)
        check_answers(page, files / f"{network}.spatial", path)


def test_int8_gives_the_answers_of_onnxruntime(page, quantized, tmp_path):
    onnx.save(quantized, tmp_path / "int8.onnx")
    path = picture(tmp_path, "colours")
    page.give("model", tmp_path / "int8.onnx")
    page.give("picture", path)
    check_answers(page, tmp_path / "int8.onnx", path)


PREPARED = """(async (cases) => {
    const { channelsOf, fit, normalise } = await import('./prepare.mjs');
    return cases.map(({ height, width, rgba, image, channels, how }) => {
        const data = channelsOf(rgba, channels);
        const seen = fit({ height, width, channels, data }, image, how);
        return [[...seen.data], [...normalise(seen, how)]];
    });
})"""


def test_pictures_are_prepared_to_the_last_bit(page):
    rng, cases, expected = np.random.default_rng(0), [], []
    ways = [(filter, resize) for filter in INTERPOLATIONS for resize in ("cover", "border")]
    for i, (interpolation, resize) in enumerate([*ways, *((f, "stretch") for f in INTERPOLATIONS)]):
        for size in ((64, 96), (48, 48)):
            how = Preprocessing(
                crop_fraction=(1, 0.875, 0.9)[i % 3],
                interpolation=interpolation,
                mean=((0.5,), (0.485, 0.456, 0.406))[i % 2],
                truncated=bool(i % 2),
                resize=resize,
            )
            pixels = rng.choice(np.array([0, 7, 128, 255], np.uint8), (*rng.integers(8, 130, 2), 4))
            transform = Transform(size, 1 + 2 * (i % 2), how)
            if int(PIL.__version__.split(".")[0]) < 13:  # which always began with the width
                pixels = pixels[: pixels.shape[1]]
            try:
                fit = transform.fit(Image.fromarray(pixels))
            except UnfitPictureError:
                continue
            expected.append((fit.ravel(), transform.normalise(fit).ravel()))
            case = {
                "height": pixels.shape[0],
                "width": pixels.shape[1],
                "rgba": pixels.ravel().tolist(),
                "image": {"height": size[0], "width": size[1]},
                "channels": transform.channels,
                "how": json.loads(how.to_json()),
            }
            cases.append(case)
    assert len(cases) > 30
    for (bytes_, floats), (fit, normalised) in zip(
        page.evaluate(f"{PREPARED}({json.dumps(cases)})"), expected, strict=True
    ):
        np.testing.assert_array_equal(bytes_, fit)
        np.testing.assert_array_equal(np.array(floats, np.float32), normalised)


def changed(path: Path, to: Path, **metadata: str) -> Path:
    """Write the file with other metadata; those given as '' are left out."""
    model = onnx.load(path)
    kept = {entry.key: entry.value for entry in model.metadata_props} | metadata
    onnx.helper.set_model_props(model, {key: value for key, value in kept.items() if value})
    onnx.save(model, to)
    return to


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"output": "features"}, "gives features, and no classes"),
        ({"output": "feature-maps"}, "gives feature-maps, and no classes"),
        ({"tool": ""}, "does not say how pictures are prepared for it"),
        ({"problem_type": "regression"}, "is for regression, not for one class of several"),
        (
            {"preprocessing": Preprocessing(unsupported="pictures are mirrored").to_json()},
            "Pictures cannot be prepared for changed.onnx: pictures are mirrored.",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused_in_words(page, files, tmp_path, metadata, words):
    page.give("model", changed(files / "small.spatial", tmp_path / "changed.onnx", **metadata))
    assert words in page.problem()
    assert page.evaluate(ANSWERS) == []
    assert page.evaluate(TEXT.format("about")) == "None."


@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
def test_what_is_no_onnx_file_is_refused_in_words(page, files, tmp_path, damage):
    content = (files / "small.spatial").read_bytes()
    path = tmp_path / "wrong.onnx"
    path.write_bytes({"text": b"what is this?", "empty": b"", "cut": content[:-1000]}[damage])
    page.give("model", path)
    assert page.problem().startswith("wrong.onnx is no ONNX file: ")


def test_what_is_no_picture_is_refused_in_words(page, files, tmp_path):
    path = tmp_path / "wrong.png"
    path.write_bytes(b"what is this?")
    page.give("model", files / "small.spatial")
    page.give("picture", path)
    assert page.problem().startswith("This browser cannot read wrong.png as a picture.")
    Image.new("RGB", (1, 8000)).save(path)
    page.give("picture", path)
    assert "1 pixels wide and 8000 high" in page.problem()
    page.give("picture", picture(tmp_path, "colours"))  # goes on
    assert len(page.answers()) == 5


def test_files_named_in_the_address_are_loaded(page, served, site, files, tmp_path):
    artifact, path = site / "small.onnx", site / "picture.png"
    artifact.symlink_to(files / "small.spatial")
    path.symlink_to(picture(tmp_path, "colours"))
    page.visit(f"{served}?model=small.onnx&picture=picture.png&repeat=3")
    page.wait_for(DONE + f"&& {ANSWERS}.length")
    check_answers(page, artifact, path)
    assert re.fullmatch(r"picture\.png, in [\d.]+ ms", page.evaluate(TEXT.format("note")))
    page.visit(f"{served}?model=missing.onnx")
    page.wait_for(DONE)
    assert "missing.onnx cannot be loaded from the server of this page: 404" in page.problem()


def test_dropped_files_are_taken(page, served, files, tmp_path):
    page.visit(served)
    path = picture(tmp_path, "colours")
    artifact = tmp_path / "a.onnx"
    artifact.symlink_to(files / "small.spatial")
    data = {"items": [], "files": [str(path), str(artifact)], "dragOperationsMask": 1}
    for event in ("dragEnter", "dragOver", "drop"):
        page.call("Input.dispatchDragEvent", type=event, x=200, y=200, data=data)
    page.wait_for(DONE + f"&& {ANSWERS}.length")
    check_answers(page, artifact, path)


def test_the_camera_gives_a_picture(page, files):
    page.give("model", files / "small.spatial")
    click = "document.getElementById('camera').click()"
    page.evaluate(click)
    page.wait_for(TEXT.format("camera") + " === 'Take the picture'")
    page.evaluate(TEXT.format("note") + " = ''")
    page.evaluate(click)
    page.wait_for(DONE)
    assert len(page.answers()) == 5
    assert page.evaluate("document.getElementById('video').srcObject") is None
    assert page.evaluate(TEXT.format("note")).startswith("the camera, in ")


def test_everything_is_labelled_and_reached_by_the_keyboard(page, served):
    page.visit(served)
    reached = []
    for _ in range(3):
        for event in ("keyDown", "keyUp"):
            page.call(
                "Input.dispatchKeyEvent", type=event, key="Tab", code="Tab", windowsVirtualKeyCode=9
            )
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["model", "picture", "camera"]
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    names = [node["name"]["value"] for node in nodes if node["role"]["value"] == "button"]
    assert sorted(names) == ["Choose a picture", "Choose an ONNX file", "Use the camera"]


def test_it_cannot_ask_another_server_even_if_it_wanted_to(page):
    asked = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}/"
        fetched = f"fetch('{address}', {{ mode: 'no-cors' }}).then(() => 'went out', String)"
        assert page.evaluate(fetched).startswith("TypeError")
        server.shutdown()
    assert asked == []


@pytest.mark.parametrize("isolated", [True, False], ids=["serve.py", "http.server"])
def test_it_tells_its_threads(page, served, site, files, isolated):
    if isolated:
        page.visit(served)
        page.give("model", files / "small.spatial")
        assert re.search(r"on (\d threads|one thread)\. ", page.evaluate(TEXT.format("about")))
        assert page.evaluate("crossOriginIsolated")
        return
    command = [sys.executable, "-u", "-m", "http.server", "0", "-b", "127.0.0.1", "-d", site]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        (port,) = re.findall(r"port (\d+)", server.stdout.readline())
        address = f"http://localhost:{port}/"
        page.visit(address)
        page.give("model", files / "small.spatial")
        assert "on one thread (serve.py allows more)" in page.evaluate(TEXT.format("about"))
        assert not page.evaluate("crossOriginIsolated")
        server.terminate()
    page.requested[:] = [url for url in page.requested if not url.startswith(address)]
    page.visit(served)
