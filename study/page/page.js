// The page: a square to draw in, what the networks make of it, and their maps. DATA is what demo.py has
// written down; compute.js computes with it.
"use strict";
const element = id => document.getElementById(id);
const SIDE = 280, digits = [...Array(10).keys()];
for (const network of DATA.networks)
  for (const [name, {shape, data}] of Object.entries(network.tensors))
    network.tensors[name] = tensor(shape, new Float32Array(decoded(data).buffer));
for (const image of Object.values(DATA.images))
  image.pixels = Float32Array.from(decoded(image.pixels), byte => byte / 255);

// What torch has computed must come out here as well.
const normalised = image => image.map(value => (value - DATA.mean) / DATA.std);
const networks = DATA.networks.filter(network => {
  const {image, output} = network.check;
  try {
    const {data} = compute(network, normalised(DATA.images[image].pixels))[network.output];
    return output.every((value, i) => Math.abs(data[i] - value) < 1e-3);
  } catch { return false; }
});
const failed = DATA.networks.filter(network => !networks.includes(network)).map(({step}) => step);

const state = {
  testImage: null,  // its number, as long as one is shown and not drawn on
  chosen: networks.length - 1,  // which network to look into
  place: null,  // where in its maps: {layer, map, y, x}
  image: null,  // what the networks see, 784 numbers from 0 (black) to 1
  known: [],  // what each network has computed for it
};

// ---------------------------------------------------------------- from the square to 28x28 pixels

/** The number at (y, x), between the pixels' centres, in a square image of `side` pixels; 0 outside of it. */
function between(image, side, y, x) {
  const top = Math.floor(y), left = Math.floor(x), at = (i, j) =>
    i >= 0 && i < side && j >= 0 && j < side ? image[i * side + j] : 0;
  return (at(top, left) * (left + 1 - x) + at(top, left + 1) * (x - left)) * (top + 1 - y)
       + (at(top + 1, left) * (left + 1 - x) + at(top + 1, left + 1) * (x - left)) * (y - top);
}

/** 28x28 pixels, each of scale x scale pixels of `ink`; (centreY, centreX) of that comes to (middle, middle). */
function reduced(ink, scale, centreY, centreX, middle = 14) {
  const n = Math.max(1, Math.ceil(scale)), image = new Float32Array(784);
  for (let i = 0; i < 784 * n * n; i++) {  // n x n samples in each pixel
    const pixel = Math.floor(i / (n * n)), sample = i % (n * n);
    const y = Math.floor(pixel / 28) + (Math.floor(sample / n) + 0.5) / n, x = pixel % 28 + (sample % n + 0.5) / n;
    image[pixel] += between(ink, SIDE, centreY + (y - middle) * scale - 0.5,
                            centreX + (x - middle) * scale - 0.5) / (n * n);
  }
  return image;
}

/** As NIST's digits became MNIST: fitted into a box of 20x20, the centre of mass in the middle of pixel 14. */
function prepared(ink) {
  let [top, bottom, left, right] = [SIDE, -1, SIDE, -1], [mass, massY, massX] = [0, 0, 0];
  ink.forEach((value, i) => {
    const y = Math.floor(i / SIDE), x = i % SIDE;
    if (value > 0.2) {
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
      [left, right] = [Math.min(left, x), Math.max(right, x)];
    }
    [mass, massY, massX] = [mass + value, massY + value * (y + 0.5), massX + value * (x + 0.5)];
  });
  return reduced(ink, Math.max(bottom - top + 1, right - left + 1, 1) / 20, massY / mass, massX / mass, 14.5);
}

// The same noise for every image, so that only the slider changes it.
let seed = 1;
const uniform = () => (seed = seed * 48271 % 2147483647) / 2147483647;
const normal = Float32Array.from({length: 784}, () =>
  Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));

/** `image`, shifted to the right, turned clockwise about its centre, with noise. */
function distorted(image, shift, turn, noise) {
  const [sin, cos] = [Math.sin(turn * Math.PI / 180), Math.cos(turn * Math.PI / 180)];
  return image.map((value, i) => {
    const y = Math.floor(i / 28) - 13.5, x = i % 28 - 13.5 - shift;
    const there = shift || turn ? between(image, 28, 13.5 + y * cos - x * sin, 13.5 + y * sin + x * cos) : value;
    return Math.min(1, Math.max(0, there + noise * normal[i]));
  });
}

const pad = element("pad").getContext("2d", {willReadFrequently: true});
const ink = () => Float32Array.from({length: SIDE * SIDE},
  function (_, i) { return this[4 * i] / 255; }, pad.getImageData(0, 0, SIDE, SIDE).data);

/** What the networks see now, or null if nothing is drawn. */
function seen() {
  const drawn = state.testImage === null ? ink() : null;
  if (drawn && !drawn.some(value => value > 0.2)) return null;
  const image = !drawn ? DATA.images[state.testImage].pixels
    : element("prepare").checked ? prepared(drawn) : reduced(drawn, SIDE / 28, SIDE / 2, SIDE / 2);
  return distorted(image, ...["shift", "turn", "noise"].map(id => Number(element(id).value)));
}

// ---------------------------------------------------------------- pictures

/** From purple over white to orange, for numbers from -1 to 1 in steps of 1 / 255: [red, green, blue]. */
const palette = Array.from({length: 511}, (_, i) => (i > 255 ? [166, 70, 0] : [74, 20, 120]).map(
  end => 255 + (end - 255) * Math.sqrt(Math.abs(i - 255) / 255)));

const GAP = 3;  // pixels between maps, one of them the edge of a map

/** How maps of h x w lie side by side in `width` pixels, each number `zoom` pixels large. */
function layout(count, h, w, zoom, width) {
  const across = Math.max(1, Math.min(count, Math.floor(width / (w * zoom + GAP))));
  return {across, count, h, w, zoom, stepX: w * zoom + GAP, stepY: h * zoom + GAP,
          width: across * (w * zoom + GAP), height: Math.ceil(count / across) * (h * zoom + GAP)};
}

/** Where in a canvas so laid out place (y, x) of map number `map` is. */
const cornerOf = ({across, stepX, stepY, zoom}, map, y, x) =>
  [map % across * stepX + x * zoom + 1, Math.floor(map / across) * stepY + y * zoom + 1];

/** Draw `numbers`, maps one after the other, into `canvas`. */
function drawMaps(canvas, numbers, plan) {
  const {count, h, w, zoom} = plan, most = numbers.reduce((m, v) => Math.max(m, Math.abs(v)), 1e-9);
  const small = document.createElement("canvas");
  [small.width, small.height] = [w, count * h];
  const pixels = small.getContext("2d").createImageData(w, count * h);
  for (let i = 0; i < count * h * w; i++) {
    const [red, green, blue] = palette[Math.round(255 + 255 * numbers[i] / most)] ?? [0, 0, 0];  // NaN is black
    [pixels.data[4 * i], pixels.data[4 * i + 1], pixels.data[4 * i + 2], pixels.data[4 * i + 3]] = [red, green, blue, 255];
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  [canvas.width, canvas.height] = [plan.width, plan.height];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.strokeStyle = "#aaa";
  for (let map = 0; map < count; map++) {
    const [x, y] = cornerOf(plan, map, 0, 0);
    context.drawImage(small, 0, map * h, w, h, x, y, w * zoom, h * zoom);
    context.strokeRect(x - 0.5, y - 0.5, w * zoom + 1, h * zoom + 1);
  }
}

function drawImage(canvas, image, zoom = 1) {
  const context = canvas.getContext("2d");
  for (let i = 0; i < 784; i++) {
    const grey = image ? Math.round(255 * image[i]) : 0;
    context.fillStyle = `rgb(${grey}, ${grey}, ${grey})`;
    context.fillRect(i % 28 * zoom, Math.floor(i / 28) * zoom, zoom, zoom);
  }
  return context;
}

// ---------------------------------------------------------------- answers

const cells = [];  // for each network: {answer, bars}
function makeAnswers() {
  const table = document.createElement("table"), head = table.createTHead().insertRow();
  const answers = table.createTBody().insertRow(), bars = digits.map(() => table.tBodies[0].insertRow());
  table.createCaption().textContent = "What each step reads, and how sure it is, in percent";
  for (const row of [head, answers, ...bars]) row.append(document.createElement("th"));
  bars.forEach((row, digit) => { row.firstChild.textContent = digit; row.firstChild.scope = "row"; });
  networks.forEach((network, i) => {
    const header = head.appendChild(document.createElement("th"));
    header.scope = "col";
    const button = header.appendChild(document.createElement("button"));
    const [number, ...rest] = network.step.split("_");
    button.append(number, Object.assign(document.createElement("span"),
      {className: "rest", textContent: ` ${rest.join(" ")}`}));
    button.title = network.step;
    button.onclick = () => choose(i);
    cells.push({button, answer: answers.insertCell(), bars: bars.map(row => row.insertCell())});
    answers.lastChild.className = "answer";
    for (const row of bars) row.lastChild.className = "bar";
  });
  element("answers").append(table);
}

/** The ten probabilities that network number i gives. */
function probabilities(i) {
  const {data} = logSoftmax(state.known[i][networks[i].output], -1);
  return Array.from(data, Math.exp);
}

function showAnswers() {
  const answers = networks.map((_, i) => state.image ? probabilities(i) : null);
  const best = answers.map(p => p && p.indexOf(Math.max(...p)));
  cells.forEach(({answer, bars}, i) => {
    const wrong = state.testImage !== null && best[i] !== DATA.images[state.testImage].label;
    answer.textContent = best[i] === null ? "" : `${best[i]}${wrong ? "✗" : ""}`;
    answer.classList.toggle("wrong", wrong);
    bars.forEach((cell, digit) => {
      const percent = answers[i] ? 100 * answers[i][digit] : 0;
      cell.textContent = percent >= 1 ? `${Math.round(percent)} %` : "";
      cell.style.backgroundSize = `${percent}% 100%`;
    });
  });
}

// ---------------------------------------------------------------- inside

const many = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

const seesAll = layer => [...layer.rows, ...layer.columns].every(([first, last]) => first === 0 && last === 27);

let pictures = [];  // of the chosen network: {layer, canvas, plan}
function makeLayers() {
  const network = networks[state.chosen];
  element("layers").replaceChildren();
  pictures = network.layers.filter(({kind}) =>
    element("every").checked || !["batch_norm", "dropout"].includes(kind)).map(layer => {
    const [maps, h, w] = layer.shape, figure = document.createElement("figure");
    const caption = figure.appendChild(document.createElement("figcaption"));
    const canvas = figure.appendChild(document.createElement("canvas"));
    caption.textContent = [`${layer.name}: ${many(maps, "map")} of ${h}x${w}`,
      ...layer.parameters ? [many(layer.parameters, "parameter")] : [],
      seesAll(layer) ? "sees the whole image" : `receptive field ${layer.field}`].join(", ");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${caption.textContent}. The arrow keys move the place that is looked at.`);
    element("layers").append(figure);
    const picture = {layer, canvas};
    canvas.onpointerdown = canvas.onpointermove = event => pointAt(picture, event);
    canvas.onkeydown = event => moveTo(picture, event);
    return picture;
  });
}

const outputOf = layer => state.known[state.chosen][layer.output].data;

function showLayers() {
  for (const picture of pictures) {
    const {layer, canvas} = picture, [maps, h, w] = layer.shape;
    const numbers = state.image ? outputOf(layer).subarray(0, maps * h * w) : new Float32Array(maps * h * w);
    const zoom = Math.min(20, Math.max(2, Math.floor(60 / Math.max(h, w))));
    picture.plan = layout(maps, h, w, zoom, element("layers").clientWidth - 6);
    drawMaps(canvas, numbers, picture.plan);
    if (state.place?.layer === layer) {
      const context = canvas.getContext("2d");
      context.fillStyle = "#00b060";
      context.fillRect(...cornerOf(picture.plan, state.place.map, state.place.y, state.place.x), zoom, zoom);
    }
  }
  showPlace();
}

/** The receptive field of the place that is looked at, and the weights of its filter. */
function showPlace() {
  const field = drawImage(element("field"), state.image, 4), weights = element("weights");
  weights.hidden = true;
  element("says").textContent = "Point at a place in one of the maps below.";
  if (!state.place) return;
  const {layer, map, y, x} = state.place, [top, bottom] = layer.rows[y], [left, right] = layer.columns[x];
  field.strokeStyle = "#00e080";
  field.lineWidth = 2;
  field.strokeRect(4 * left + 1, 4 * top + 1, 4 * (right - left + 1) - 2, 4 * (bottom - top + 1) - 2);
  const [, h, w] = layer.shape, value = state.image && outputOf(layer)[(map * h + y) * w + x];
  element("says").textContent = `${layer.name}, map ${map + 1}, row ${y + 1}, column ${x + 1}`
    + (state.image ? `: ${value.toFixed(2)}` : "")
    + `. It sees rows ${top + 1} to ${bottom + 1}, columns ${left + 1} to ${right + 1} of the image.`;
  if (layer.weight) {
    const {shape: [, depth, rows, columns], data} = networks[state.chosen].tensors[layer.weight];
    const size = depth * rows * columns, room = element("says").clientWidth;
    let plan, zoom = Math.floor(40 / Math.max(rows, columns)) + 1;
    do plan = layout(depth, rows, columns, --zoom, room); while (zoom > 1 && plan.height > 42);
    drawMaps(weights, data.subarray(map * size, (map + 1) * size), plan);
    element("says").textContent += ` The ${size} weights of its filter:`;
    weights.hidden = false;
  }
}

function lookAt(place) {
  state.place = place;
  showLayers();
}

function pointAt({layer, plan}, event) {
  const {across, count, h, w, zoom, stepX, stepY} = plan, [mapX, mapY] = [event.offsetX / stepX, event.offsetY / stepY];
  const map = Math.floor(mapY) * across + Math.floor(mapX);
  const [x, y] = [Math.floor((event.offsetX % stepX - 1) / zoom), Math.floor((event.offsetY % stepY - 1) / zoom)];
  if (mapX < across && map < count && x >= 0 && x < w && y >= 0 && y < h) {
    element("says").ariaLive = "off";  // or a screen reader would read out every place on the way
    lookAt({layer, map, y, x});
  }
}

/** The arrow keys move over the maps as they lie side by side. */
function moveTo({layer, plan: {across}}, event) {
  const move = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  if (!move) return;
  event.preventDefault();
  const [maps, h, w] = layer.shape;
  const now = state.place?.layer === layer ? state.place : {map: 0, y: h >> 1, x: w >> 1};
  const y = Math.floor(now.map / across) * h + now.y + move[0], x = now.map % across * w + now.x + move[1];
  const map = Math.floor(y / h) * across + Math.floor(x / w);
  if (y >= 0 && x >= 0 && x < across * w && map < maps) {
    element("says").ariaLive = "polite";
    lookAt({layer, map, y: y % h, x: x % w});
  }
}

function choose(i) {
  state.chosen = i;
  state.place = null;
  element("chosen").value = i;
  cells.forEach(({button}, k) => button.setAttribute("aria-pressed", k === i));
  const {step, parameters, epochs, seed, accuracy, split, started, operations, layers} = networks[i];
  const images = Math.max(...operations.filter(({kind}) => kind === "conv2d").map(({shape}) => shape[0]));
  element("about").textContent = `${step}: ${many(parameters, "parameter")}, trained for ${many(epochs, "epoch")} `
    + `with seed ${seed} on ${started.slice(0, 10)}; right on ${accuracy.toFixed(2)} % of the ${split} images.`
    + (images > 1 ? ` It looks at ${images} shifted images and answers with the mean; the maps are those of the first.` : "")
    + (layers.length && layers[0].shape[1] > 1 && seesAll(layers[0])
      ? " Before its first layer it looks at the whole image (step 7 deskews it)." : "");
  makeShelf();
  makeLayers();
  showLayers();
}

// ---------------------------------------------------------------- test images

function nameOf(number) {
  const {label, disputed} = DATA.images[number];
  return `Test image ${number}, labelled ${label}${disputed ? " (which is disputed)" : ""}`;
}

function makeShelf() {
  const {wrong, step} = networks[state.chosen];
  element("shelf").replaceChildren(...[["One of each digit", DATA.right], [`${step} is wrong`, wrong]]
    .filter(([, numbers]) => numbers.length).map(([title, numbers]) => {
      const row = document.createElement("div");
      row.className = "row";
      row.append(Object.assign(document.createElement("span"), {textContent: `${title}:`}));
      for (const number of numbers) {
        const button = document.createElement("button"), canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [28, 28];
        drawImage(canvas, DATA.images[number].pixels);
        button.title = nameOf(number);
        button.setAttribute("aria-label", button.title);
        button.append(canvas);
        button.onclick = () => showTestImage(number);
        row.append(button);
      }
      return row;
    }));
}

function showTestImage(number) {
  state.testImage = number;
  const small = document.createElement("canvas");
  [small.width, small.height] = [28, 28];
  drawImage(small, DATA.images[number].pixels);
  pad.imageSmoothingEnabled = false;
  pad.drawImage(small, 0, 0, SIDE, SIDE);
  say(`${nameOf(number)}.`);
  update();
}

// ---------------------------------------------------------------- drawing, and pictures from elsewhere

function clear() {
  state.testImage = null;
  pad.fillStyle = "#000";
  pad.fillRect(0, 0, SIDE, SIDE);
  say("");
}

const say = text => { element("shown").textContent = text; };

/** Put a picture into the square, dark on light or light on dark, as white ink on black. */
async function open(file) {
  clear();
  try {
    const bitmap = await createImageBitmap(file), scale = SIDE / Math.max(bitmap.width, bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale], [x, y] = [(SIDE - w) / 2, (SIDE - h) / 2];
    pad.imageSmoothingEnabled = true;
    pad.fillStyle = "#fff";  // behind what is transparent
    pad.fillRect(x, y, w, h);
    pad.drawImage(bitmap, x, y, w, h);
    const pixels = pad.getImageData(0, 0, SIDE, SIDE), grey = [];
    for (let i = 0; i < SIDE * SIDE; i++) grey.push(sum([...pixels.data.subarray(4 * i, 4 * i + 3)]) / 765);
    const inside = (_, i) => i % SIDE >= x + 1 && i % SIDE < x + w - 1
      && Math.floor(i / SIDE) >= y + 1 && Math.floor(i / SIDE) < y + h - 1;
    const sorted = grey.filter(inside).sort((a, b) => a - b), paper = sorted[sorted.length >> 1];
    const strokes = grey.map((value, i) => inside(value, i) ? Math.abs(value - paper) : 0);
    const darkest = [...strokes].sort((a, b) => b - a)[sorted.length >> 8];  // but for a few specks
    strokes.forEach((value, i) => {  // what differs from the paper by less than a third of that is shade
      const white = 255 * Math.min(1, Math.max(0, (value / darkest - 0.35) / 0.5));
      pixels.data.set([white, white, white, 255], 4 * i);
    });
    pad.putImageData(pixels, 0, 0);
    if (!(darkest > 0.1)) {
      clear();
      say("There is nothing drawn in that picture.");
    }
  } catch {
    clear();
    say("This browser cannot read that file as a picture.");
  }
  update();
}

let last = null;  // where the stroke that is being drawn has got to
element("pad").onpointerdown = event => {
  if (!event.isPrimary || event.button !== 0) return;  // a second finger, the right button
  event.preventDefault();
  if (state.testImage !== null) clear();
  last = null;
  stroke(event);
};
addEventListener("pointermove", event => {  // the stroke goes on outside of the square
  if (event.isPrimary && !(event.buttons & 1)) last = null;
  if (event.isPrimary && last) stroke(event);
});
for (const kind of ["pointerup", "pointercancel"])
  addEventListener(kind, event => { if (event.isPrimary) last = null; });

function stroke(event) {
  const {left, top} = element("pad").getBoundingClientRect();
  const here = [event.clientX - left, event.clientY - top];
  pad.strokeStyle = "#fff";
  pad.lineWidth = 22;
  pad.lineCap = pad.lineJoin = "round";
  pad.beginPath();
  pad.moveTo(...(last ?? [here[0], here[1] - 0.1]));  // a line of no length is not drawn
  pad.lineTo(...here);
  pad.stroke();
  last = here;
  soon();
}

let waiting = false, pause = 16;
function soon() {  // not for every event, so that drawing stays smooth where computing is slow
  if (!waiting) setTimeout(() => {
    const start = performance.now();
    waiting = false;
    update();
    pause = Math.max(16, performance.now() - start);
  }, pause);
  waiting = true;
}

function update() {
  state.image = seen();
  const given = state.image && normalised(state.image);
  state.known = networks.map(network => given && compute(network, given));
  element("prepare").disabled = state.testImage !== null;
  drawImage(element("seen"), state.image);
  for (const [id, unit] of [["shift", " px"], ["turn", "°"], ["noise", ""]])
    document.querySelector(`output[for=${id}]`).textContent = element(id).value + unit;
  showAnswers();
  showLayers();
}

element("clear").onclick = () => { clear(); update(); };
element("reset").onclick = () => {
  for (const id of ["shift", "turn", "noise"]) element(id).value = 0;
  update();
};
element("file").onchange = async event => {
  if (event.target.files[0]) await open(event.target.files[0]);
  event.target.value = "";  // or the same file could not be opened again
};
for (const id of ["prepare", "shift", "turn", "noise"]) element(id).oninput = soon;
element("every").oninput = () => { makeLayers(); showLayers(); };
element("chosen").oninput = event => choose(Number(event.target.value));
addEventListener("resize", showLayers);
for (const kind of ["dragover", "dragleave", "drop"])
  addEventListener(kind, event => {
    event.preventDefault();
    element("pad").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });

element("chosen").append(...networks.map(({step}, i) => new Option(step, i)));
makeAnswers();
clear();
if (networks.length) choose(state.chosen);
if (DATA.right.length) showTestImage(DATA.right[Math.floor(DATA.right.length / 3)]);
if (failed.length) element("answers").append(
  `Left out, since this page does not compute what torch does: ${failed.join(", ")}.`);
