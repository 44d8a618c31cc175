"""The page to draw a digit on, in a real browser."""
import base64
import html
import importlib
import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import a_run, assert_one_line, in_chromium, run, train
from torch import nn

from harness import cli, mnist
from harness.loader import Loader, predict
from study import demo
from study.robustness import trained_network
from study.variants import STEPS, VARIANTS

TRAINED = STEPS.index("step6_fast")  # of the networks, in turn
SHOWN = 200  # test images that are put through the page's networks
# Strokes in the square of 280 pixels, as lists of points.
CIRCLE = [(140 + 60 * math.sin(a / 10), 140 - 90 * math.cos(a / 10)) for a in range(64)]
DRAWN = {0: [CIRCLE], 1: [[(150, 40), (135, 240)]], 7: [[(80, 60), (200, 60), (120, 240)]],
         3: [[(90, 60), (150, 45), (190, 80), (170, 115), (130, 130), (180, 145), (200, 190), (160, 230),
              (90, 220)]]}
# A script's function: send("pointerdown", target, [x, y] in the square).
SEND = """const square = element("pad").getBoundingClientRect();
    const send = (kind, target, [x, y], more) => target.dispatchEvent(new PointerEvent(kind, {
      bubbles: true, cancelable: true, isPrimary: true, buttons: 1,
      clientX: square.left + x, clientY: square.top + y, ...more}));
"""
HOSTILE = '</script><script>document.title = "no"</script><img src=x onerror="document.title = 1">'


def a_network(step):
    """The step's network after one batch in training mode, for the statistics of batch norm."""
    net = importlib.import_module(step).Net()
    net(torch.rand(64, 1, 28, 28))
    return net


@pytest.fixture(scope="module")
def finished(tensors, tmp_path_factory):
    """A folder with weights of every step. Step 6 is trained on some images; the last JSON is hostile."""
    folder = tmp_path_factory.mktemp("finished")
    torch.manual_seed(1)
    for step in STEPS:
        recipe = VARIANTS[step].facts()["recipe"]
        made_up = a_run(step, mistakes=[[947, 8, 9], [8, 5, 6]]) | {"recipe": recipe}
        (folder / f"{step}.json").write_text(json.dumps(made_up))
        torch.save(a_network(step).state_dict(), folder / f"{step}.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "load_training", lambda *_: (tensors[0][:12000], tensors[1][:12000]))
        patch.setattr(mnist, "load_test", lambda *_: (tensors[2][:1000], tensors[3][:1000]))
        train(folder, "step6_fast", "--epochs", 1, "--batch-size", 64, "--device", "cpu")
    path = folder / f"{STEPS[-1]}.json"  # of which the page shows the layers first
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": HOSTILE}))
    return folder


@pytest.fixture(scope="module")
def page(finished, data_dir):
    process = run(sys.executable, "-m", "study.demo", "--out-dir", finished, "--data-dir", data_dir)
    assert process.returncode == 0 and process.stderr == ""
    return (finished / "demo.html").read_text()


def in_base64(images):
    return base64.b64encode(images.numpy().tobytes()).decode()


def test_the_page_computes_what_torch_computes(page, finished, tensors, tmp_path):
    images, labels = tensors[2][:SHOWN], tensors[3][:SHOWN]
    found = in_chromium(page, tmp_path, f"""
        const bytes = decoded("{in_base64(images)}"), found = {{}};
        for (const network of networks)
          found[network.step] = Array.from({{length: {SHOWN}}}, (_, i) => {{
            const image = Array.from(bytes.subarray(784 * i, 784 * (i + 1)), b => b / 255);
            const given = image.map(value => (value - DATA.mean) / DATA.std);
            return [...compute(network, given)[network.output].data];
          }});
        return found;""")
    assert list(found) == list(STEPS)
    for step in STEPS:
        record = json.loads((finished / f"{step}.json").read_text())
        expected = predict(trained_network(record, finished / f"{step}.pt"), Loader(images, labels, 100))
        answers = torch.tensor(found[step])
        assert torch.equal(answers.argmax(dim=1), expected.argmax(dim=1)), step
        assert torch.allclose(answers, expected, atol=1e-4), step


class Motley(nn.Module):
    """Every operation of the page, with unusual options, and layers used twice that change their input."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=(1, 2), stride=2)
        self.same = nn.Conv2d(4, 4, (3, 5), padding="same", dilation=2)
        self.smooth = nn.Sequential(nn.ELU(0.7), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.ReLU6(),
                                    nn.Dropout2d(0.1))
        self.twice = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.relu = nn.ReLU(inplace=True)
        self.gain = nn.Parameter(torch.rand(1, 4, 1, 1))
        self.small = nn.AdaptiveAvgPool2d(3)
        self.last = nn.Linear(12, 10)

    def forward(self, x):
        across = torch.arange(28).view(1, 1, -1) / 14 - x.amax((1, 2)).unsqueeze(1)
        down = x.sum((1, 3)).sqrt().unsqueeze(-1) - 4 - x.amin((1, -1), keepdim=True).squeeze(1) ** 2
        grid = torch.stack([across.expand(-1, 28, -1), down.expand_as(across + down)], dim=-1)
        x = x + F.grid_sample(x, grid, align_corners=False)
        x = F.pad(F.pad(x, (1, 2, 0, 1), value=0.5), (2, 0, 1, 1), mode="replicate")[..., 1:-1, 2:30:2]
        x = F.pad(x, (1, 0))
        x = self.first(x)
        for norm in self.norms:
            x = norm(self.twice(x))
            x = x + self.relu(x)  # which has changed x
        x = self.smooth(self.same(x) / 2) * self.gain - 0.5
        x = F.max_pool2d(x, 3, 1, 1, dilation=1)
        x = F.avg_pool2d(F.avg_pool2d(x, 2, 1, 1), 2, 1, 1, count_include_pad=False)
        x = torch.cat([x, F.leaky_relu(x - 1, 0.2)], dim=1)
        pooled = self.small(F.dropout(x, 0.5, self.training))
        gate = torch.sigmoid(pooled.mean((2, 3), keepdim=True)) * torch.tanh(x)
        weight = F.softmax(pooled.view(-1, 8, 9), dim=-1, dtype=torch.float32).mean(1)
        x = torch.cat([(x * gate).mean((2, 3))[:, 1:4], weight], dim=1)
        return F.log_softmax(self.last(x), dim=1)


def test_every_operation_of_the_page(tmp_path):
    torch.manual_seed(2)
    net = Motley()
    net(torch.rand(64, 1, 28, 28))
    network = demo.described(net)
    assert {operation["kind"] for operation in network["operations"]} == {*demo.OPERATIONS.values()}
    # Two norms, one convolution and one ReLU used twice each, besides the first and the small.
    assert [layer["name"] for layer in network["layers"]] == [
        "Conv2d-1", "Conv2d-2", "BatchNorm2d-3", "ReLU-4", "Conv2d-5", "BatchNorm2d-6", "ReLU-7", "Conv2d-8",
        "ELU-9", "SiLU-10", "GELU-11", "GELU-12", "ReLU6-13", "Dropout2d-14", "AdaptiveAvgPool2d-15"]
    image = torch.rand(1, 1, 28, 28)
    found = in_chromium("<!DOCTYPE html><script>/**/</script></html>".replace(
        "/**/", (demo.PAGE / "compute.js").read_text()), tmp_path, f"""
        const network = {json.dumps(network)};
        for (const [name, {{shape, data}}] of Object.entries(network.tensors))
          network.tensors[name] = tensor(shape, new Float32Array(decoded(data).buffer));
        return [...compute(network, {image.flatten().tolist()})[network.output].data];""")
    assert torch.allclose(torch.tensor([found]), net.eval()(image), atol=1e-5)


def test_drawn_digits_are_read(page, tmp_path):
    found = in_chromium(page, tmp_path, f"""
        const found = {{}}; {SEND}
        for (const [digit, strokes] of Object.entries({json.dumps(DRAWN)})) {{
          element("clear").click();
          const empty = cells[{TRAINED}].answer.textContent;
          for (const [start, ...others] of strokes) {{
            send("pointerdown", element("pad"), start);
            for (const point of others) send("pointermove", document, point);
            send("pointermove", document, [10, 10], {{isPrimary: false}});  // another finger
            send("pointerup", document, start);
            send("pointermove", document, [10, 10], {{buttons: 0}});  // with nothing pressed
          }}
          await new Promise(resolve => setTimeout(resolve, 50));
          const mass = state.image.reduce((sum, v) => sum + v, 0);
          const centre = state.image.reduce((sum, v, i) => sum + v * Math.floor(i / 28), 0) / mass;
          const rows = [...state.image.keys()].filter(i => state.image[i] > 0.2).map(i => Math.floor(i / 28));
          const height = Math.max(...rows) - Math.min(...rows);
          found[digit] = [empty, cells[{TRAINED}].answer.textContent, centre, height];
        }}
        return found;""")
    for digit, (empty, answer, centre, height) in found.items():
        assert (empty, answer) == ("", digit)
        assert centre == pytest.approx(14, abs=0.2) and 18 <= height <= 20  # as MNIST's are


def test_a_tap_draws_a_dot_and_other_buttons_draw_nothing(page, tmp_path):
    found = in_chromium(page, tmp_path, f"""
        const found = []; {SEND}
        for (const more of [{{}}, {{button: 2, buttons: 2}}, {{isPrimary: false}}]) {{
          clear();
          send("pointerdown", element("pad"), [100, 120], more);
          send("pointermove", document, [100, 120], {{buttons: 0}});  // let go where the page did not see it
          send("pointermove", document, [200, 220]);
          found.push(ink().reduce((sum, value) => sum + value, 0));
        }}
        return found;""")
    assert found[0] == pytest.approx(math.pi * 11 ** 2, rel=0.1) and found[1:] == [0, 0]


def test_an_image_is_prepared_as_mnist_was(page, tensors, tmp_path):
    images = tensors[2][:50]
    found = in_chromium(page, tmp_path, f"""
        const bytes = decoded("{in_base64(images)}"), found = [];
        for (let i = 0; i < 50; i++) {{
          const image = Float32Array.from(bytes.subarray(784 * i, 784 * (i + 1)), byte => byte / 255);
          const moved = image.map((_, k) => k % 28 >= 3 ? image[k - 3] : 0);  // by three pixels
          const small = document.createElement("canvas");
          small.width = small.height = 28;
          clear();
          drawImage(small, moved);
          pad.drawImage(small, 40, 40, 140, 140);  // and half the size
          const error = other => other.reduce((sum, v, k) => sum + Math.abs(v - image[k]), 0) / 784;
          found.push([error(prepared(ink())), error(moved)]);
        }}
        return found;""")
    prepared, moved = (sum(column) / len(found) for column in zip(*found, strict=True))
    assert prepared < 0.04 and moved > 0.1


def test_a_picture_dark_on_light_and_light_on_dark(page, tmp_path):
    found = in_chromium(page, tmp_path, f"const TRAINED = {TRAINED};" + """
        const found = [];
        for (const [paper, stroke] of [["#d8d0c0", "#223355"], ["#102810", "#f0f0e0"]]) {
          const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
          [canvas.width, canvas.height] = [640, 400];
          context.fillStyle = paper;
          context.fillRect(0, 0, 640, 400);
          context.strokeStyle = stroke;
          context.lineWidth = 24;
          context.lineJoin = "round";
          context.beginPath();
          for (const [x, y] of [[80, 60], [200, 60], [120, 240]]) context.lineTo(200 + x, 50 + y);
          context.stroke();
          await settled(open(await settled(new Promise(resolve => canvas.toBlob(resolve)))));
          found.push(cells[TRAINED].answer.textContent);
        }
        const empty = new OffscreenCanvas(50, 50);
        empty.getContext("2d").fillRect(0, 0, 50, 50);
        for (const file of [await settled(empty.convertToBlob()), new Blob(["no picture"])]) {
          await settled(open(file));
          found.push(element("shown").textContent, cells[TRAINED].answer.textContent);
        }
        return found;

        async function settled(promise) {  // takes time, since the browser's clock stops for no other thread
          let done = false;
          promise.finally(() => { done = true; });
          while (!done) {
            update();
            await new Promise(resolve => setTimeout(resolve, 1));
          }
          return promise;
        }""")
    assert found == ["7", "7", "There is nothing drawn in that picture.", "",
                     "This browser cannot read that file as a picture.", ""]


def test_test_images_and_sliders(page, tensors, tmp_path):
    found = in_chromium(page, tmp_path, """
        const buttons = [...document.querySelectorAll("#shelf button")];
        buttons.find(button => button.title.startsWith("Test image 0,")).click();  // a 7
        const set = async (id, value) => {
          element(id).value = value;
          element(id).dispatchEvent(new Event("input"));
          await new Promise(resolve => setTimeout(resolve, 50));
          return [...state.image];
        };
        const found = [buttons.map(button => button.title), element("shown").textContent,
          cells.map(({answer}) => answer.textContent), element("prepare").disabled, [...state.image]];
        for (const [id, value] of [["shift", 3], ["shift", 0], ["turn", 60], ["turn", 0], ["noise", 0.5]])
          found.push(await set(id, value));
        return found;""")
    titles, shown, answers, prepared, plain, shifted, back, turned, again, noisy = found
    # Test images need no preparation. All steps but one are untrained here.
    assert shown == "Test image 0, labelled 7." and prepared
    assert answers[TRAINED] == "7" and all(answer == "7" or answer.endswith("✗") for answer in answers)
    assert any("✗" in answer for answer in answers)
    assert "Test image 947, labelled 8 (disputed)" not in titles  # step 6's mistakes are its own
    assert len(titles) >= 12
    image = torch.tensor(plain).view(28, 28)
    assert torch.allclose(image, tensors[2][0] / 255, atol=1e-6) and plain == back == again
    assert torch.allclose(torch.tensor(shifted).view(28, 28)[:, 3:], image[:, :-3], atol=1e-5)
    y, x = torch.meshgrid(torch.arange(28.), torch.arange(28.), indexing="ij")

    def centre(numbers):
        ink = torch.tensor(numbers).view(28, 28)
        return [((side * ink).sum() / ink.sum() - 13.5).item() for side in (y, x)]

    (down, right), (turned_down, turned_right) = centre(plain), centre(turned)
    sin, cos = math.sin(math.pi / 3), math.cos(math.pi / 3)
    assert turned_right == pytest.approx(right * cos - down * sin, abs=0.1)
    assert turned_down == pytest.approx(right * sin + down * cos, abs=0.1)  # clockwise: y points down
    assert torch.tensor(noisy).sub(torch.tensor(plain)).std() > 0.2


def test_looking_inside(page, tmp_path):
    found = in_chromium(page, tmp_path, """
        element("chosen").value = networks.findIndex(network => network.step === "step4_aug_lr");
        element("chosen").dispatchEvent(new Event("input"));
        const captions = [...document.querySelectorAll("#layers figcaption")].map(c => c.textContent);
        const {canvas, plan} = pictures.find(picture => picture.layer.name === "Conv2d-14");
        const {left, top} = canvas.getBoundingClientRect(), [x, y] = cornerOf(plan, 2, 3, 1);
        // Map 3, row 4, column 2, all counted from 1.
        canvas.dispatchEvent(new PointerEvent("pointermove", {bubbles: true,
          clientX: left + x + plan.zoom / 2, clientY: top + y + plan.zoom / 2}));
        const says = [element("says").textContent, element("weights").hidden];
        canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
        says.push(element("says").textContent);
        element("every").click();
        const lens = [];
        for (const {layer, canvas} of pictures) {
          lookAt({layer, map: 0, y: 0, x: 0});
          lens.push(element("lens").scrollHeight - element("lens").clientHeight);
        }
        return [captions, says, plan.across, document.querySelectorAll("#layers figure").length, lens];""",
        size=(1000, 900))
    captions, says, across, every, too_high = found
    assert len(too_high) == 35 and not any(too_high)
    assert "Conv2d-14: 13 maps of 9x9, 936 parameters, receptive field 12" in captions
    assert "AvgPool2d-34: 50 maps of 1x1, sees the whole image" in captions
    assert across == 13 and len(captions) == 35 - 8 - 8 and every == 35
    # Step 4's ninth layer map row 4: rows 7 to 18 of the image, since neighbours are two pixels apart.
    assert says[0].startswith("Conv2d-14, map 3, row 4, column 2: ")
    assert "It sees rows 7 to 18, columns 3 to 14 of the image. The 72 weights of its filter" in says[0]
    assert says[1] is False
    assert "map 3, row 4, column 3: " in says[2]


@pytest.mark.parametrize("width", [1000, 360])
def test_it_fits_the_window(page, width, tmp_path):
    # Chromium has no window as narrow as a phone's; a frame in the window may be.
    outer = f"<!DOCTYPE html><iframe width={width} height=740 srcdoc='{html.escape(page)}'></iframe></html>"
    inside, scrolls, found = in_chromium(outer, tmp_path, """
        const {document: page, innerWidth: inside} = frames[0];
        const parts = [...page.querySelectorAll(
          "section, canvas, table, label, input[type=range], output, button, p")];
        return [inside, page.documentElement.scrollWidth, parts.map(part => {
          const {left, right, width} = part.getBoundingClientRect();
          return [part.outerHTML.slice(0, 80), left, right, width];
        })];""", size=(1100, 900))
    assert inside == width == scrolls and len(found) > 60
    for part, left, right, wide in found:
        assert left >= 0 and right <= width and (wide > 0 or 'id="weights"' in part or "<p>" in part), part


def test_it_asks_for_no_other_file_and_takes_no_name_for_code(page, tmp_path):
    requests, text, title, images = in_chromium(page, tmp_path, """
        return [performance.getEntriesByType("resource").map(entry => entry.name),
          element("about").textContent, document.title, document.images.length];""")
    assert requests == [] and "default-src 'none'" in page
    assert title == "Draw a digit" and images == 0
    assert HOSTILE[:10] in text  # shown as it is, where the date of the last step should be


def test_a_step_that_the_page_cannot_compute(tree, data_dir, finished):
    step = (tree / "step5_beyond.py").read_text()
    (tree / "step9_mine.py").write_text(step.replace("x = self.places(x)", "x = self.places(x).cumsum(1)"))
    results = tree / "results"
    results.mkdir()
    for name in ("step5_beyond", "step9_mine"):
        text = (finished / "step5_beyond.json").read_text()
        (results / f"{name}.json").write_text(text.replace("step5_beyond", name))
        (results / f"{name}.pt").write_bytes((finished / "step5_beyond.pt").read_bytes())
    (results / "step4_aug_lr.json").write_text((finished / "step4_aug_lr.json").read_text())  # no weights
    wide = json.loads((finished / "step5_beyond.json").read_text())
    wide |= {"step": "step7_small", "arguments": wide["arguments"] | {"width": "wide"}}
    (results / "step7_small.json").write_text(json.dumps(wide))
    process = run(sys.executable, "-m", "study.demo", "--data-dir", data_dir, cwd=tree)
    assert process.returncode == 0
    cannot_load, cannot_make, cannot_compute = process.stderr.splitlines()
    assert "left out: step4_aug_lr: " in cannot_load and "step4_aug_lr.pt has no weights" in cannot_load
    assert "left out: step7_small: " in cannot_make and "step7_small.pt has no weights" in cannot_make
    assert "left out: step9_mine: the page cannot compute cumsum.default" in cannot_compute
    assert "step5" not in process.stderr
    page = (results / "demo.html").read_text()
    assert '"step": "step5_beyond"' in page and '"step": "step9_mine"' not in page


def test_nothing_to_show(tmp_path, data_dir):
    process = run(sys.executable, "-m", "study.demo", "--out-dir", tmp_path, "--data-dir", data_dir)
    assert_one_line(process, "study.demo: error: no finished run of a step in", tmp_path)


class Grouped(nn.Module):
    """In a block of its own: an operation that has no schema."""

    def forward(self, x):
        with torch.no_grad():
            return F.relu(x)


class Sly(nn.Module):
    """Changes a part of its input in place, which the page does not notice."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        x = self.conv(x)
        x[:, 1:3].add_(100)
        return self.last(x.mean((2, 3)))


def test_a_network_that_the_page_computes_wrongly_is_left_out(page, tmp_path):
    torch.manual_seed(3)
    net = Sly()
    start = page.index("const DATA = ") + len("const DATA = ")
    data = json.JSONDecoder().raw_decode(page, start)[0]
    image = torch.from_numpy(np.frombuffer(base64.b64decode(data["images"]["0"]["pixels"]), np.uint8).copy())
    given = ((image.view(1, 1, 28, 28) / 255) - data["mean"]) / data["std"]
    data["networks"].append(data["networks"][0] | demo.described(net) | {
        "step": "step9_sly", "check": {"image": 0, "output": net.eval()(given)[0].tolist()}})
    names, said = in_chromium(demo.page(data), tmp_path, """
        return [networks.map(({step}) => step), element("answers").textContent];""")
    assert names == list(STEPS) and "not compute what torch does: step9_sly." in said


def test_a_network_that_gets_every_one_of_a_digit_wrong(finished, data_dir, tensors, tmp_path):
    fours = (tensors[3] == 4).nonzero().flatten().tolist()
    run_of = a_run("step4_aug_lr", mistakes=[[i, 4, 9] for i in fours])
    (tmp_path / "step4_aug_lr.json").write_text(json.dumps(run_of))
    (tmp_path / "step4_aug_lr.pt").write_bytes((finished / "step4_aug_lr.pt").read_bytes())
    (tmp_path / "step1_basic.json").write_text(json.dumps(a_run("step1_basic", dry_run=True)))
    process = run(sys.executable, "-m", "study.demo", "--out-dir", tmp_path, "--data-dir", data_dir)
    assert process.returncode == 0 and "left out: step1_basic: it is a dry run" in process.stderr
    page = (tmp_path / "demo.html").read_text()
    data = json.JSONDecoder().raw_decode(page, page.index("const DATA = ") + len("const DATA = "))[0]
    assert sorted(int(tensors[3][i]) for i in data["right"]) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert data["networks"][0]["wrong"] == fours[:demo.WRONG]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_what_it_cannot_follow_is_said():
    class Deciding(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(cli.UserError, match="torch.export cannot follow it: "):
        demo.described(Deciding())
    with pytest.raises(cli.UserError, match=r"cannot compute batch_norm.default \(in 1\)"):
        demo.described(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(1, track_running_stats=False)))
    for layer in (nn.MaxPool2d(2, ceil_mode=True), Grouped(), nn.ReflectionPad2d(2), nn.ConstantPad3d(1, 0.0),
                  nn.Conv2d(1, 2, 2, padding="same", dilation=1)):
        with pytest.raises(cli.UserError, match="the page cannot compute (max_pool2d|pad|wrap_with)"):
            demo.described(layer)
